/* How the accelerators are put in. */

#include "scheduler.h"

#include <structmember.h>
#include <sys/socket.h>

PyObject *find_thing(PyObject *things, const char *name) {
    PyObject *thing = PyDict_GetItemString(things, name);
    if (thing == NULL)
        PyErr_Format(PyExc_TypeError, "bind: no %s", name);
    return Py_XNewRef(thing);
}

static PyObject *find_class(PyObject *things, const char *name) {
    PyObject *class = find_thing(things, name);
    if (class != NULL && !PyType_Check(class)) {
        PyErr_Format(PyExc_TypeError, "bind: %s is no class", name);
        Py_CLEAR(class);
    }
    return class;
}

int find_slot(PyObject *things, const char *name, const char *slot, Py_ssize_t *at) {
    PyObject *class = find_class(things, name);
    PyObject *found = class == NULL ? NULL : PyObject_GetAttrString(class, slot);
    int failed = found == NULL ? -1 : 0;
    if (found != NULL) {
        if (Py_IS_TYPE(found, &PyMemberDescr_Type) &&
            PyType_IsSubtype((PyTypeObject *)class, PyDescr_TYPE(found)) &&
            ((PyMemberDescrObject *)found)->d_member->type == T_OBJECT_EX) {
            *at = ((PyMemberDescrObject *)found)->d_member->offset;
        } else {
            PyErr_Format(PyExc_TypeError, "%s.%s is no slot", name, slot);
            failed = -1;
        }
    }
    Py_XDECREF(found);
    Py_XDECREF(class);
    return failed;
}

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
    PyObject *epoll = type_of("select", "epoll");
    PyObject *plain = epoll == NULL ? NULL : type_of("_socket", "socket");
    bool known = epoll != NULL && plain != NULL &&
                 (native->deque = type_of("collections", "deque")) != NULL &&
                 (native->socket_type = (PyTypeObject *)type_of("socket", "socket")) != NULL &&
                 (native->popleft = PyObject_GetAttrString(native->deque, "popleft")) != NULL &&
                 (native->append = PyObject_GetAttrString(native->deque, "append")) != NULL &&
                 (native->fileno = PyObject_GetAttr(plain, native->name.fileno)) != NULL &&
                 (native->epoll_fileno = PyObject_GetAttr(epoll, native->name.fileno)) != NULL &&
                 (native->dontwait = PyLong_FromLong(MSG_DONTWAIT)) != NULL &&
                 (native->quietly = PyLong_FromLong(MSG_DONTWAIT | MSG_NOSIGNAL)) != NULL &&
                 (native->zero = PyLong_FromLong(0)) != NULL &&
                 (native->infinite = PyFloat_FromDouble(Py_HUGE_VAL)) != NULL &&
                 (native->chunk = PyLong_FromLong(CHUNK)) != NULL;
    Py_XDECREF(epoll);
    Py_XDECREF(plain);
    return known ? 0 : -1;
}

/* An accelerator reads the slots of its class, so it is given to that class or one below it. Their
   documentation comes with `accelerator`. */
static struct {
    PyMethodDef method;
    size_t class;
} accelerators[] = {
#define QUICKLY(function) (PyCFunction)(void (*)(void))function
    {{"run", native_run, METH_NOARGS, NULL}, offsetof(Native, its.Connection)},
    {{"receive", native_run, METH_NOARGS, NULL}, offsetof(Native, its.Connection)},
    {{"stay", QUICKLY(native_stay), METH_FASTCALL, NULL}, offsetof(Native, its.Connection)},
    {{"send", QUICKLY(native_send), METH_FASTCALL | METH_KEYWORDS, NULL}, offsetof(Native, its.Socket)},
    {{"recv", QUICKLY(native_recv), METH_FASTCALL | METH_KEYWORDS, NULL}, offsetof(Native, its.Socket)},
};

PyObject *give_accelerator(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyTypeObject *type;
    const char *name, *documentation;
    if (!PyArg_ParseTuple(arguments, "O!ss", &PyType_Type, &type, &name, &documentation))
        return NULL;
    if (!native->is_bound)
        return PyErr_Format(PyExc_RuntimeError, "accelerator: `bind` comes first");
    for (size_t which = 0; which < sizeof accelerators / sizeof *accelerators; which++) {
        PyMethodDef *method = &accelerators[which].method;
        if (strcmp(method->ml_name, name) != 0)
            continue;
        PyObject *class = *(PyObject **)((char *)native + accelerators[which].class);
        if (!PyType_IsSubtype(type, (PyTypeObject *)class))
            return PyErr_Format(PyExc_TypeError, "accelerator: %s is none of %.100s", name,
                                type->tp_name);
        char *kept = PyMem_RawMalloc(strlen(documentation) + 1); /* for good: a method has it */
        if (kept == NULL)
            return PyErr_NoMemory();
        method->ml_doc = strcpy(kept, documentation);
        return PyDescr_NewMethod(type, method);
    }
    return PyErr_Format(PyExc_LookupError, "no accelerator of %s", name);
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

/* Its fields are read as a task's. */
static bool is_a_task(void) {
    PyTypeObject *connection = (PyTypeObject *)native->its.Connection;
    if (PyType_IsSubtype(connection, native->type.Task))
        return true;
    PyErr_Format(PyExc_TypeError, "%.100s is no %.100s", connection->tp_name,
                 native->type.Task->tp_name);
    return false;
}

PyObject *bind_all(PyObject *Py_UNUSED(module), PyObject *arguments, PyObject *things) {
    if (!PyArg_ParseTuple(arguments, "") || things == NULL)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "bind takes things");
    if (native->is_bound) /* the package was imported before */
        return PyErr_Format(PyExc_RuntimeError, "bind: the module is taken");
#define FIND_SLOT(class, slot)                                                                 \
    if (find_slot(things, #class, #slot, &native->at.class##__##slot) < 0)                      \
        return NULL;
    FIELDS(FIND_SLOT)
#define KEEP_THING(thing)                                                                      \
    if ((native->its.thing = find_thing(things, #thing)) == NULL)                               \
        return not_bound();
    THINGS(KEEP_THING)
    if (!are_dicts() || !is_a_task())
        return not_bound();
    native->is_bound = true;
    Py_RETURN_NONE;
}
