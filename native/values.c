/* What is in slots, and numbers of Python as numbers of C. */

#include "native.h"

#include <structmember.h>

/* Its name is where Python has it from, the table of the base type's members. */
PyObject *unset(PyObject *object, PyObject **field) {
    Py_ssize_t place = (char *)field - (char *)object;
    const char *name = "";
    for (PyTypeObject *type = Py_TYPE(object); type != NULL; type = type->tp_base)
        for (PyMemberDef *member = type->tp_members; member && member->name; member++)
            if (member->offset == place)
                name = member->name;
    return PyErr_Format(PyExc_AttributeError, "'%.100s' object has no attribute '%s'",
                        Py_TYPE(object)->tp_name, name);
}

int odd_truth(PyObject *object, PyObject **field) {
    PyObject *flag = in_slot(object, field);
    if (flag == NULL)
        return -1;
    Py_INCREF(flag);
    int known = PyObject_IsTrue(flag);
    Py_DECREF(flag);
    return known;
}

bool is_below(PyObject *object, PyTypeObject *type, PyTypeObject **seen) {
    if (!PyObject_TypeCheck(object, type))
        return false;
    Py_XSETREF(*seen, (PyTypeObject *)Py_NewRef(Py_TYPE(object))); /* or its place is another's */
    return true;
}

int not_taken(PyObject *object, PyTypeObject *type) {
    PyErr_Format(PyExc_TypeError, "got %.100s, takes %.100s", Py_TYPE(object)->tp_name,
                 type->tp_name);
    return -1;
}

int no_number(PyObject *value) {
    return value == NULL ? -1 : not_taken(value, &PyLong_Type);
}

int number_of(PyObject *fd, int *number) {
    long value;
    if (whole(fd, &value) < 0)
        return -1;
    *number = value == (int)value ? (int)value : -1; /* which is no descriptor */
    return 0;
}

int add_to(PyObject *object, PyObject **field, long more) {
    long known;
    if (whole(in_slot(object, field), &known) < 0)
        return -1;
    PyObject *sum = PyLong_FromLong((long)((unsigned long)known + more));
    if (sum == NULL)
        return -1;
    put(field, sum);
    return 0;
}

int odd_seconds(PyObject *value, double *seconds) {
    if (value == NULL)
        return -1;
    Py_INCREF(value); /* its conversion may run anything */
    *seconds = PyFloat_AsDouble(value);
    Py_DECREF(value);
    return *seconds == -1.0 && PyErr_Occurred() ? -1 : 0;
}

int read_clock(PyObject *clock, double *now) {
    if (clock == native->its.monotonic) { /* it reads this clock, too */
        *now = seconds_now();
        return 0;
    }
    if (clock == NULL)
        return -1;
    Py_INCREF(clock);
    PyObject *seconds = PyObject_CallNoArgs(clock);
    Py_DECREF(clock);
    int failed = seconds_of(seconds, now);
    Py_XDECREF(seconds);
    return failed;
}

/* The number of a `socket.socket`, which is -1 if it is closed. */
int descriptor(PyObject *sock, int *number) {
    PyObject *fd = sock == NULL ? NULL : call1(native->fileno, sock);
    int failed = number_of(fd, number);
    Py_XDECREF(fd);
    return failed;
}
