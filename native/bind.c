/* What the Python gives to the C, and what the C knows by itself. */

#include "scheduler.h"

#include <sys/socket.h>

/* A type of another module. */
static PyObject *type_of(const char *module, const char *name) {
    PyObject *from = PyImport_ImportModule(module);
    PyObject *found = from == NULL ? NULL : PyObject_GetAttrString(from, name);
    Py_XDECREF(from);
    return found;
}

/* What every type of ours calls. */
int know_names(void) {
#define KEEP_NAME(word)                                                                        \
    if ((native->name.word = PyUnicode_InternFromString(#word)) == NULL)                        \
        return -1;
    NAMES(KEEP_NAME)
    PyObject *socket = type_of("socket", "socket");
    native->socket_type = (PyTypeObject *)socket;
    bool known = socket != NULL && (native->deque = type_of("collections", "deque")) != NULL &&
                 (native->append = PyObject_GetAttrString(native->deque, "append")) != NULL &&
                 (native->fileno = PyObject_GetAttr(socket, native->name.fileno)) != NULL &&
                 (native->dontwait = PyLong_FromLong(MSG_DONTWAIT)) != NULL &&
                 (native->quietly = PyLong_FromLong(MSG_DONTWAIT | MSG_NOSIGNAL)) != NULL &&
                 (native->zero = PyLong_FromLong(0)) != NULL &&
                 (native->infinite = PyFloat_FromDouble(Py_HUGE_VAL)) != NULL &&
                 (native->chunk = PyLong_FromLong(CHUNK)) != NULL;
    return known ? 0 : -1;
}

int is_bound(void) {
    if (!native->is_bound)
        PyErr_SetString(PyExc_RuntimeError, "`bind` comes first");
    return native->is_bound ? 0 : -1;
}

/* document(type, name, text): what the Python equal of a method says of it. */
PyObject *document(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyTypeObject *type;
    const char *name, *text;
    if (!PyArg_ParseTuple(arguments, "O!ss", &PyType_Type, &type, &name, &text))
        return NULL;
    PyObject *found = PyObject_GetAttrString((PyObject *)type, name);
    if (found == NULL || takes(found, &PyMethodDescr_Type) < 0) {
        Py_XDECREF(found);
        return NULL;
    }
    PyMethodDef *method = ((PyMethodDescrObject *)found)->d_method;
    const char *end = method->ml_doc == NULL ? NULL : strstr(method->ml_doc, "\n--\n\n");
    size_t head = end == NULL ? 0 : (size_t)(end - method->ml_doc) + 5;
    char *kept = PyMem_RawMalloc(head + strlen(text) + 1); /* for good */
    if (kept != NULL) {
        memcpy(kept, method->ml_doc, head);
        strcpy(kept + head, text);
        method->ml_doc = kept;
    }
    Py_DECREF(found);
    if (kept == NULL)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* Lets go of what a `bind` that failed had taken. */
static PyObject *not_bound(void) {
#define DROP_THING(thing) Py_CLEAR(native->its.thing);
    THINGS(DROP_THING)
    return NULL;
}

static bool are_dicts(void) {
    PyObject *dicts[] = {native->its.async_recv, native->its.socket_recv, native->its.socket_send};
    for (size_t which = 0; which < sizeof dicts / sizeof *dicts; which++)
        if (takes(dicts[which], &PyDict_Type) < 0)
            return false;
    return true;
}

PyObject *bind_all(PyObject *Py_UNUSED(module), PyObject *arguments, PyObject *things) {
    if (!PyArg_ParseTuple(arguments, "") || things == NULL)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "bind takes things");
    if (native->is_bound) /* the package was imported before */
        return PyErr_Format(PyExc_RuntimeError, "bind: the module is taken");
#define KEEP_THING(thing)                                                                      \
    native->its.thing = Py_XNewRef(PyDict_GetItemString(things, #thing));                      \
    if (native->its.thing == NULL) {                                                           \
        PyErr_Format(PyExc_TypeError, "bind: no %s", #thing);                                  \
        return not_bound();                                                                    \
    }
    THINGS(KEEP_THING)
    if (!are_dicts())
        return not_bound();
    native->is_bound = true;
    Py_RETURN_NONE;
}
