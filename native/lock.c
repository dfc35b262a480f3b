/* `_native.Lock` and `_native.RLock`: as those of `threading`, but that an accelerator takes one
   without a call, and that both know who holds them.

   In the debug mode somebody watches (`_base.locks`): told before one is waited for, after it was
   taken, before it is given back. Of what has no lock, `NULL`: code of the user's is run. */

#include "native.h"

#include <math.h>
#include <structmember.h>

PyObject *watch_locks(PyObject *Py_UNUSED(module), PyObject *watch) {
    PyObject *before = native->lock_watch;
    native->lock_watch = watch == Py_None ? NULL : Py_NewRef(watch);
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

void tell_lock_watch(PyObject *self, int what) {
    PyObject *type, *error, *traceback, *watch = native->lock_watch;
    assert(watch != NULL); /* its callers have looked */
    PyErr_Fetch(&type, &error, &traceback);
    Py_INCREF(watch);
    PyObject *arguments = Py_BuildValue("Oii", self == NULL ? Py_None : self,
                                        self == NULL ? 0 : ((Lock *)self)->rank, what);
    if (arguments == NULL || done(PyObject_Call(watch, arguments, NULL)) < 0)
        PyErr_WriteUnraisable(watch);
    Py_XDECREF(arguments);
    Py_DECREF(watch);
    PyErr_Restore(type, error, traceback);
}

static void watched(Lock *lock, int what) {
    if (native->lock_watch != NULL && lock->rank != 0)
        tell_lock_watch((PyObject *)lock, what);
}

static PyObject *new_lock(PyTypeObject *type, PyObject *args, PyObject *Py_UNUSED(words)) {
    short rank = 0;
    if (!PyArg_ParseTuple(args, "|h", &rank))
        return NULL;
    Lock *lock = (Lock *)type->tp_alloc(type, 0);
    if (lock != NULL && (lock->lock = PyThread_allocate_lock()) == NULL) {
        Py_DECREF(lock);
        return PyErr_NoMemory();
    }
    if (lock != NULL) {
        lock->rank = rank;
        lock->counts = type == native->type.RLock;
    }
    return (PyObject *)lock;
}

/* How many the calling thread has of those that are held for a moment only. The place of it is
   the thread's own, and so stands for the thread: one look-up is for both. */
static __thread int held;

static bool is_mine(Lock *lock) { return lock->owner == &held; }

PyObject *holds_any(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    return PyBool_FromLong(held > 0);
}

PyObject *holds_none(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(ignored)) {
    held = 0;
    Py_RETURN_NONE;
}

static void end_lock(PyObject *self) {
    Lock *lock = (Lock *)self;
    if (lock->references != NULL)
        PyObject_ClearWeakRefs(self);
    if (lock->lock != NULL) {
        if (lock->owner != NULL) {
            if (is_mine(lock) && held > 0) /* else `holds_none` has counted it already */
                held -= lock->counts;
            PyThread_release_lock(lock->lock);
        }
        PyThread_free_lock(lock->lock);
    }
    PyTypeObject *type = Py_TYPE(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static void taken(Lock *lock) {
    int *mine = &held;
    lock->owner = mine;
    *mine += lock->counts;
    watched(lock, LOCK_TOOK);
}

bool lock_try(PyObject *self) {
    Lock *lock = (Lock *)self;
    if (PyThread_acquire_lock(lock->lock, NOWAIT_LOCK)) {
        taken(lock);
        return true;
    }
    if (!lock->counts || !is_mine(lock))
        return false;
    lock->again++;
    watched(lock, LOCK_TOOK);
    return true;
}

/* Waits for it at most so many microseconds, or for ever if negative, without the GIL.
   1: it is ours, 0: it is not, -1: a signal's handler raised. */
static int wait_for_lock(Lock *lock, long long left) {
    _Static_assert(sizeof(PY_TIMEOUT_T) >= 8, "holds microseconds");
    double ends = seconds_now() + (double)left * 1e-6;
    while (true) {
        PyLockStatus got;
        Py_BEGIN_ALLOW_THREADS
        got = PyThread_acquire_lock_timed(lock->lock, left, 1);
        Py_END_ALLOW_THREADS
        if (got == PY_LOCK_ACQUIRED) {
            taken(lock);
            return 1;
        }
        if (got == PY_LOCK_FAILURE)
            return 0;
        if (Py_MakePendingCalls() < 0)
            return -1;
        if (left >= 0) {
            double now = seconds_now();
            left = ends > now ? (long long)ceil((ends - now) * 1e6) : 0;
        }
    }
}

/* For an accelerator, in the middle of what must be finished: signals wait, for whoever holds one
   of these locks holds it for a moment. */
void lock_wait(PyObject *self) {
    Lock *lock = (Lock *)self;
    watched(lock, LOCK_WANTS);
    if (lock_try(self))
        return;
    Py_BEGIN_ALLOW_THREADS
    PyThread_acquire_lock(lock->lock, WAIT_LOCK);
    Py_END_ALLOW_THREADS
    taken(lock);
}

static void give(Lock *lock) {
    watched(lock, LOCK_GIVES);
    if (lock->again > 0) {
        lock->again--;
        return;
    }
    lock->owner = NULL;
    held -= lock->counts;
    PyThread_release_lock(lock->lock);
}

/* By an accelerator, which has taken it. Where somebody else released it meanwhile, who must not, a
   second release would let two in. */
void lock_release(PyObject *self) {
    if (is_mine((Lock *)self))
        give((Lock *)self);
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
    if (blocking)
        watched((Lock *)self, LOCK_WANTS);
    if (lock_try(self))
        Py_RETURN_TRUE;
    if (!blocking)
        Py_RETURN_FALSE;
    int got = wait_for_lock((Lock *)self, timeout == -1 ? -1 : (long long)ceil(timeout * 1e6));
    return got < 0 ? NULL : PyBool_FromLong(got);
}

static PyObject *enter(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    watched((Lock *)self, LOCK_WANTS);
    if (lock_try(self) || wait_for_lock((Lock *)self, -1) > 0)
        Py_RETURN_TRUE;
    return NULL;
}

static PyObject *release(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    Lock *lock = (Lock *)self;
    if (lock->counts ? !is_mine(lock) : lock->owner == NULL)
        return PyErr_Format(PyExc_RuntimeError, "release of a lock that is not held");
    give(lock);
    Py_RETURN_NONE;
}

static PyObject *leave(PyObject *self, PyObject *const *Py_UNUSED(args), Py_ssize_t Py_UNUSED(n)) {
    return release(self, NULL);
}

static PyObject *locked(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    return PyBool_FromLong(((Lock *)self)->owner != NULL);
}

/* By this name `threading.Condition` asks for it, too. */
static PyObject *is_owned(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    return PyBool_FromLong(is_mine((Lock *)self));
}

/* In a forked child: whoever held it is not there. */
static PyObject *renew(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    Lock *lock = (Lock *)self;
    PyThread_type_lock fresh = PyThread_allocate_lock();
    if (fresh == NULL)
        return PyErr_NoMemory();
    lock->lock = fresh; /* the old one may not be freed while it is held, and by whom */
    lock->owner = NULL;
    lock->again = 0;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"acquire", (PyCFunction)(void (*)(void))acquire, METH_FASTCALL | METH_KEYWORDS, NULL},
    {"release", release, METH_NOARGS, NULL},
    {"locked", locked, METH_NOARGS, NULL},
    {"_is_owned", is_owned, METH_NOARGS, NULL},
    {"_at_fork_reinit", renew, METH_NOARGS, NULL},
    {"__enter__", enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)(void (*)(void))leave, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static PyMemberDef members[] = {
    {"__weaklistoffset__", T_PYSSIZET, offsetof(Lock, references), READONLY, NULL},
    {NULL, 0, 0, 0, NULL},
};

#define LOCK_TYPE(kind)                                                                        \
    static PyType_Slot kind##_slots[] = {                                                      \
        {Py_tp_doc, "As `threading." #kind "`."},                                              \
        {Py_tp_new, new_lock},                                                                 \
        {Py_tp_dealloc, end_lock},                                                             \
        {Py_tp_methods, methods},                                                              \
        {Py_tp_members, members},                                                              \
        {0, NULL},                                                                             \
    };                                                                                         \
    PyType_Spec kind##_spec = {                                                                \
        .name = "thousand_island_sync._native." #kind,                                         \
        .basicsize = sizeof(Lock),                                                             \
        .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_IMMUTABLETYPE,                                \
        .slots = kind##_slots,                                                                 \
    };

LOCK_TYPE(Lock)
LOCK_TYPE(RLock)
