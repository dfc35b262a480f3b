/* `Connection`, with `run` and `stay`: a step of a connection's `Machine`. It has no fields, so that
   `ConnectionTask` inherits from it beside `Task`. */

#include "scheduler.h"

#include <sys/socket.h>

/* What a step is made on; all held. */
typedef struct {
    Task *task;
    PyObject *machine, *callbacks, *socket;
} Parts;

/* What a non-blocking receive found: bytes, or `None` for nothing yet. NULL: it raised. */
static PyObject *receive(Task *task, PyObject *source) {
    if (!Py_IS_TYPE(source, native->socket_type)) { /* TLS, or a test's */
        PyObject *arguments[] = {source, native->chunk, native->dontwait};
        PyObject *data = PyObject_VectorcallMethod(native->name.recv, arguments, 3, NULL);
        if (data == NULL && PyErr_ExceptionMatches(PyExc_BlockingIOError)) {
            PyErr_Clear();
            Py_RETURN_NONE;
        }
        return data;
    }
    int fd; /* its owner closes it: this thread */
    if (number_of(GET((PyObject *)task, Task, fd), &fd) < 0)
        return NULL;
    return receive_from(fd, CHUNK, MSG_DONTWAIT);
}

/* `handle_data` in the connection's context. */
static PyObject *deliver(PyObject *callbacks, PyObject *data, PyObject *socket) {
    PyObject *context = HOLD(callbacks, Callbacks, context);
    PyObject *handler = context == NULL ? NULL : HOLD(callbacks, Callbacks, receiver);
    PyObject *result = NULL;
    if (native->lock_watch != NULL)
        tell_lock_watch(NULL, USERS_CODE);
    if (handler != NULL && PyContext_Enter(context) == 0) {
        PyObject *arguments[] = {handler, data, socket}; /* looked up anew: it may be set */
        result = PyObject_VectorcallMethod(native->name.handle_data, arguments, 3, NULL);
        if (PyContext_Exit(context) < 0)
            Py_CLEAR(result);
    }
    Py_XDECREF(handler);
    Py_XDECREF(context);
    return result;
}

static PyObject *call_with_size(PyObject *self, PyObject *method, PyObject *more, Py_ssize_t size) {
    PyObject *length = PyLong_FromSsize_t(size);
    if (length == NULL)
        return NULL;
    PyObject *result = more == NULL ? PyObject_CallMethodOneArg(self, method, length)
                                    : PyObject_CallMethodObjArgs(self, method, more, length, NULL);
    Py_DECREF(length);
    return result;
}

static PyObject *after_data(PyObject *self, PyObject *result, Py_ssize_t size) {
    return call_with_size(self, native->name.after_data, result, size);
}

static PyObject *drained_after(Task *task, PyObject *self, Py_ssize_t size) {
    PyObject *source = GET(self, Machine, source);
    if (source == NULL)
        return NULL;
    int known = tls_drained(source);
    if (known >= 0 && task->hung_up == Py_False)
        return PyLong_FromLong(known ? PARK : AGAIN);
    PyObject *drained = call_with_size(self, native->name.drained_after, NULL, size);
    int parks = drained == NULL ? -1 : PyObject_IsTrue(drained);
    Py_XDECREF(drained);
    return parks < 0 ? NULL : PyLong_FromLong(parks ? PARK : AGAIN);
}

static void release(Parts *parts) {
    Py_XDECREF(parts->machine);
    Py_XDECREF(parts->callbacks);
    Py_XDECREF(parts->socket);
}

/* The machine of a task; -1: it raised. `release` is to follow either way. */
static int hold_machine(PyObject *task, Parts *parts) {
    *parts = (Parts){(Task *)task, NULL, NULL, NULL};
    if (is_bound() < 0 || TAKES(task, Task) < 0 ||
        (parts->machine = HOLD(task, Task, machine)) == NULL)
        return -1;
    return TAKES(parts->machine, Machine);
}

static int hold_the_rest(Parts *parts) {
    if ((parts->callbacks = HOLD(parts->machine, Machine, callbacks)) == NULL ||
        TAKES(parts->callbacks, Callbacks) < 0 ||
        (parts->socket = HOLD(parts->machine, Machine, socket)) == NULL)
        return -1;
    return TAKES(parts->socket, Socket);
}

/* Parks the connection, its deadline counted from `now`. */
static int park(Parts *parts, double now) {
    PyObject *callbacks = parts->callbacks;
    double timeout;
    if (seconds_of(GET(callbacks, Callbacks, read_timeout), &timeout) < 0)
        return -1;
    parts->task->deadline = ((Callbacks *)callbacks)->read_deadline = now + timeout;
    set(SLOT(parts->machine, Machine, state), native->its.PARKED);
    return 0;
}

/* `delivery.run`: of whatever a receive has found, or of nothing that was received yet (NULL). */
static PyObject *run_in_python(Parts *parts, PyObject *data) {
    return PyObject_CallMethodObjArgs((PyObject *)parts->task, native->name.received, data, NULL);
}

/* As `delivery.run`, of some bytes, which are the caller's; the Python's, where receivers are told of
   them or the callback blocks. `staying`: the thread has no permit to give away. */
static PyObject *received(Parts *parts, PyObject *data, bool staying) {
    Task *task = parts->task;
    PyObject *self = parts->machine, *socket = parts->socket;
    if (heard(native->its.async_recv) || (!staying && !is_quick(task)))
        return run_in_python(parts, data);
    Py_ssize_t size = PyObject_Size(data); /* a user's transport may give other than bytes */
    PyObject *result;
    set(SLOT(self, Machine, state), native->its.RUNNING);
    PyObject *whole = size < 0 ? NULL : socket_received(socket, data, size);
    if (whole == NULL)
        return NULL;
    result = deliver(parts->callbacks, whole, socket);
    Py_DECREF(whole);
    if (result == NULL)
        return handled(self, native->name.raised, native->name.handle_data);
    PyObject *verdict = NULL;
    if (result != Py_None || task->alert != Py_False) {
        verdict = after_data(self, result, size);
    } else {
        double now;
        if (read_clock(GET(parts->callbacks, Callbacks, clock), &now) == 0 &&
            park(parts, now) == 0) {
            int parks = size < CHUNK ? TRUTH(self, Machine, short_proves) : 0;
            if (parks > 0)
                verdict = PyLong_FromLong(PARK);
            else if (parks == 0)
                verdict = drained_after(task, self, size);
        }
    }
    Py_DECREF(result);
    return verdict;
}

static PyObject *run_parked(Parts *parts) {
    PyObject *self = parts->machine;
    PyObject *source = HOLD(self, Machine, source);
    PyObject *data = source == NULL ? NULL : receive(parts->task, source);
    Py_XDECREF(source);
    if (data == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OSError))
            return NULL;
        return handled(self, native->name.receive_failed, NULL);
    }
    PyObject *verdict = NULL;
    int some = PyObject_IsTrue(data);
    if (some == 0) {
        verdict = run_in_python(parts, data);
    } else if (some > 0 && hold_the_rest(parts) == 0) {
        verdict = received(parts, data, false);
    }
    Py_DECREF(data);
    return verdict;
}

static PyObject *connection_run(PyObject *task, PyObject *Py_UNUSED(ignored)) {
    Parts parts;
    PyObject *verdict = NULL;
    if (hold_machine(task, &parts) == 0) {
        if (parts.task->alert != Py_False || !IS(parts.machine, Machine, state, native->its.PARKED))
            verdict = run_in_python(&parts, NULL);
        else
            verdict = run_parked(&parts);
    }
    release(&parts);
    return verdict;
}

static PyObject *ended(PyObject *verdict, bool came) {
    if (verdict == NULL)
        return NULL;
    return Py_BuildValue("(NO)", verdict, came ? Py_True : Py_False);
}

/* `Wanted`, or whatever else a stay was given, says it. -1: it raised. */
static int asked(PyObject *wanted, double duration) {
    PyObject *seconds = PyFloat_FromDouble(duration);
    PyObject *answer = seconds == NULL ? NULL : PyObject_CallOneArg(wanted, seconds);
    Py_XDECREF(seconds);
    int leaves = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return leaves;
}

/* One step of a stay. True: it ends with `*outcome`, which is NULL if something raised. */
static bool stay_step(Parts *parts, PyObject *channel, PyObject *timeout, PyObject *wanted,
                      PyObject **outcome) {
    Task *task = parts->task;
    PyObject *self = parts->machine;
    *outcome = NULL;
    if (task->alert != Py_False) {
        *outcome = ended(PyLong_FromLong(AGAIN), true);
        return true;
    }
    PyObject *arguments[] = {channel, native->chunk, timeout};
    PyObject *data = PyObject_VectorcallMethod(native->name.wait_recv, arguments, 3, NULL);
    PyObject *verdict = NULL;
    bool ends = true;
    if (data == NULL) {
        if (PyErr_ExceptionMatches(PyExc_OSError))
            *outcome = ended(handled(self, native->name.receive_failed, NULL), true);
        return true;
    }
    if (data == Py_None) {
        *outcome = ended(run_in_python(parts, data), false);
        Py_DECREF(data);
        return true;
    }
    double began, over;
    int some = PyObject_IsTrue(data);
    if (some < 0)
        goto out;
    if (some == 0 || task->alert != Py_False) {
        *outcome = ended(PyObject_CallMethodOneArg(self, native->name.came_early, data), true);
        goto out;
    }
    if (read_clock(GET(parts->callbacks, Callbacks, clock), &began) < 0 ||
        (verdict = received(parts, data, true)) == NULL)
        goto out;
    if (!PyLong_CheckExact(verdict) || PyLong_AsLong(verdict) != PARK || task->alert != Py_False) {
        *outcome = ended(Py_NewRef(verdict), true);
        goto out;
    }
    if (read_clock(GET(parts->callbacks, Callbacks, clock), &over) < 0)
        goto out;
    int leaves = asked(wanted, over - began);
    if (leaves > 0)
        *outcome = ended(PyLong_FromLong(PARK), true);
    ends = leaves != 0;
out:
    Py_XDECREF(verdict);
    Py_DECREF(data);
    return ends;
}

static PyObject *connection_stay(PyObject *task, PyObject *const *args, Py_ssize_t count) {
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "stay takes timeout and wanted");
    Parts parts;
    PyObject *outcome = NULL, *channel = NULL;
    if (hold_machine(task, &parts) == 0 && hold_the_rest(&parts) == 0)
        channel = socket_channel(parts.socket);
    bool ends = channel == NULL;
    for (int left = STAY_STEPS; left > 0 && !ends; left--)
        ends = stay_step(&parts, channel, args[0], args[1], &outcome);
    Py_XDECREF(channel);
    release(&parts);
    return ends ? outcome : ended(PyLong_FromLong(PARK), true);
}

static PyMethodDef methods[] = {
    {"run", connection_run, METH_NOARGS, "run($self, /)\n--\n\n"},
    {"receive", connection_run, METH_NOARGS, "receive($self, /)\n--\n\n"},
    {"stay", QUICKLY(connection_stay), METH_FASTCALL, "stay($self, timeout, wanted, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};
static PyType_Slot slots[] = {{Py_tp_methods, methods}, {0, NULL}};
PyType_Spec Connection_spec = {
    .name = "thousand_island_sync._native.Connection",
    .basicsize = sizeof(PyObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .slots = slots,
};
