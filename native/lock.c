/* `_native.Lock`: as `threading.Lock`, but that a twin takes it without a call. */

#include "native.h"

#include <math.h>

static PyObject *new_lock(PyTypeObject *type, PyObject *Py_UNUSED(args), PyObject *Py_UNUSED(words)) {
    Lock *lock = (Lock *)type->tp_alloc(type, 0);
    if (lock != NULL && (lock->lock = PyThread_allocate_lock()) == NULL) {
        Py_DECREF(lock);
        return PyErr_NoMemory();
    }
    return (PyObject *)lock;
}

static void end_lock(PyObject *self) {
    Lock *lock = (Lock *)self;
    if (lock->lock != NULL) {
        if (lock->held)
            PyThread_release_lock(lock->lock);
        PyThread_free_lock(lock->lock);
    }
    Py_TYPE(self)->tp_free(self);
}

bool lock_try(PyObject *self) {
    Lock *lock = (Lock *)self;
    if (!PyThread_acquire_lock(lock->lock, NOWAIT_LOCK))
        return false;
    lock->held = true;
    return true;
}

/* Waits for it at most so many microseconds, or for ever if negative, without the GIL.
   1: it is ours, 0: it is not, -1: a signal's handler raised. */
static int wait_for_lock(Lock *lock, long long left) {
    _Static_assert(sizeof(PY_TIMEOUT_T) >= 8, "microseconds");
    double ends = 0, now = 0;
    read_clock(native.its.monotonic, &now);
    ends = now + (double)left * 1e-6;
    while (true) {
        PyLockStatus got;
        Py_BEGIN_ALLOW_THREADS
        got = PyThread_acquire_lock_timed(lock->lock, left, 1);
        Py_END_ALLOW_THREADS
        if (got == PY_LOCK_ACQUIRED) {
            lock->held = true;
            return 1;
        }
        if (got == PY_LOCK_FAILURE)
            return 0;
        if (Py_MakePendingCalls() < 0)
            return -1;
        if (left >= 0) {
            read_clock(native.its.monotonic, &now);
            left = ends > now ? (long long)ceil((ends - now) * 1e6) : 0;
        }
    }
}

int lock_wait(PyObject *self) { return lock_try(self) ? 1 : wait_for_lock((Lock *)self, -1); }

void lock_release(PyObject *self) {
    Lock *lock = (Lock *)self;
    lock->held = false;
    PyThread_release_lock(lock->lock);
}

static PyObject *acquire(PyObject *self, PyObject *const *args, Py_ssize_t count,
                         PyObject *names) {
    static const char *const known[] = {"blocking", "timeout"};
    PyObject *given[2] = {NULL, NULL};
    if (count > 2)
        return PyErr_Format(PyExc_TypeError, "acquire() takes blocking and timeout");
    for (Py_ssize_t index = 0; index < count; index++)
        given[index] = args[index];
    for (Py_ssize_t index = 0; names != NULL && index < PyTuple_GET_SIZE(names); index++) {
        int which = 0;
        while (which < 2 && PyUnicode_CompareWithASCIIString(PyTuple_GET_ITEM(names, index),
                                                             known[which]) != 0)
            which++;
        if (which == 2 || given[which] != NULL)
            return PyErr_Format(PyExc_TypeError, "acquire() takes blocking and timeout");
        given[which] = args[count + index];
    }
    int blocking = given[0] == NULL ? 1 : PyObject_IsTrue(given[0]);
    double timeout = given[1] == NULL ? -1 : PyFloat_AsDouble(given[1]);
    if (blocking < 0 || PyErr_Occurred())
        return NULL;
    if (timeout != -1 && (!blocking || !(timeout >= 0) || timeout * 1e6 > (double)PY_TIMEOUT_MAX))
        return PyErr_Format(PyExc_ValueError, "acquire: a timeout that cannot be waited for");
    if (lock_try(self))
        Py_RETURN_TRUE;
    if (!blocking)
        Py_RETURN_FALSE;
    int got = wait_for_lock((Lock *)self, timeout == -1 ? -1 : (long long)ceil(timeout * 1e6));
    return got < 0 ? NULL : PyBool_FromLong(got);
}

static PyObject *enter(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    return lock_wait(self) < 0 ? NULL : Py_NewRef(Py_True);
}

static PyObject *release(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    if (!((Lock *)self)->held)
        return PyErr_Format(PyExc_RuntimeError, "release of a lock that is not held");
    lock_release(self);
    Py_RETURN_NONE;
}

static PyObject *leave(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(n)) {
    return release(self, NULL);
}

static PyObject *locked(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    return PyBool_FromLong(((Lock *)self)->held);
}

static PyMethodDef methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))acquire, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"release", release, METH_NOARGS, NULL},
    {"locked", locked, METH_NOARGS, NULL},
    {"__enter__", enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))leave, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

PyTypeObject Lock_Type = {
    PyVarObject_HEAD_INIT(NULL, 0).tp_name = "thousand_island_sync._native.Lock",
    .tp_basicsize = sizeof(Lock),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_doc = "As `threading.Lock`.",
    .tp_new = new_lock,
    .tp_dealloc = end_lock,
    .tp_methods = methods,
};
