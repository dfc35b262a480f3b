/* The twins of `Lifecycle.run` and `Lifecycle.stay`. */

#include "native.h"

#include <sys/socket.h>

/* What a non-blocking receive found: bytes, or `None` for nothing yet. NULL: it raised. */
static PyObject *receive(PyObject *self, PyObject *source) {
    if (!Py_IS_TYPE(source, native.socket_type)) { /* TLS, or a test's */
        PyObject *arguments[] = {source, native.chunk, native.dontwait};
        PyObject *data = PyObject_VectorcallMethod(native.name.recv, arguments, 3, NULL);
        if (data == NULL && PyErr_ExceptionMatches(PyExc_BlockingIOError)) {
            PyErr_Clear();
            Py_RETURN_NONE;
        }
        return data;
    }
    int fd; /* only its owner closes it: this thread */
    if (number_of(GET(self, Task, fd), &fd) < 0)
        return NULL;
    return receive_from(fd, CHUNK, MSG_DONTWAIT);
}

/* `wait_recv` of a plain channel, whose time limit is in the kernel already. */
static PyObject *wait_for(PyObject *channel, PyObject *timeout) {
    double limit, known;
    bool plain = is_exactly(channel, native.its.TCPChannel);
    if (plain && (seconds_of(timeout, &limit) < 0 ||
                  seconds_of(GET(channel, TCPChannel, _receive_timeout), &known) < 0))
        return NULL;
    if (!plain || limit != known) {
        PyObject *arguments[] = {channel, native.chunk, timeout};
        return PyObject_VectorcallMethod(native.name.wait_recv, arguments, 3, NULL);
    }
    int fd;
    if (descriptor(GET(channel, TCPChannel, _sock), &fd) < 0)
        return NULL;
    return receive_from(fd, CHUNK, 0);
}

static int count_received(PyObject *socket, Py_ssize_t size) {
    if (ADD(socket, Socket, _bytes_received, size) < 0)
        return -1;
    return ADD(socket, Socket, _recv_count, 1);
}

/* `handle_data` in the connection's context. */
static PyObject *deliver(PyObject *self, PyObject *data, PyObject *socket) {
    PyObject *context = HOLD(self, Lifecycle, _context);
    PyObject *handler = context == NULL ? NULL : HOLD(self, Lifecycle, _handler);
    PyObject *result = NULL;
    if (lock_watch != NULL)
        tell_lock_watch(NULL, USERS_CODE);
    if (handler != NULL && PyContext_Enter(context) == 0) {
        PyObject *arguments[] = {handler, data, socket}; /* looked up anew: it may be set */
        result = PyObject_VectorcallMethod(native.handle_data, arguments, 3, NULL);
        if (PyContext_Exit(context) < 0)
            Py_CLEAR(result);
    }
    Py_XDECREF(handler);
    Py_XDECREF(context);
    return result;
}

/* Parks the connection, its deadline counted from `now`. */
static int park(PyObject *self, double now) {
    double timeout;
    if (seconds_of(GET(self, Lifecycle, read_timeout), &timeout) < 0)
        return -1;
    PyObject *deadline = PyFloat_FromDouble(now + timeout);
    if (deadline == NULL)
        return -1;
    set(SLOT(self, Lifecycle, _read_deadline), deadline);
    put(SLOT(self, Task, deadline), deadline);
    set(SLOT(self, Lifecycle, _state), native.its.PARKED);
    return 0;
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
    return call_with_size(self, native.name._after_data, result, size);
}

static PyObject *drained_after(PyObject *self, Py_ssize_t size) {
    PyObject *source = GET(self, Lifecycle, _source);
    if (source == NULL)
        return NULL;
    int known = tls_drained(source);
    if (known >= 0 && IS(self, Task, hung_up, Py_False))
        return PyLong_FromLong(known ? PARK : AGAIN);
    PyObject *drained = call_with_size(self, native.name._drained_after, NULL, size);
    int parks = drained == NULL ? -1 : PyObject_IsTrue(drained);
    Py_XDECREF(drained);
    return parks < 0 ? NULL : PyLong_FromLong(parks ? PARK : AGAIN);
}

/* The step from `data` on; `socket` and `data` are the caller's. */
static PyObject *step(PyObject *self, PyObject *socket, PyObject *data) {
    Py_ssize_t size = PyObject_Size(data); /* a user's transport may give other than bytes */
    PyObject *result, *whole = NULL;
    set(SLOT(self, Lifecycle, _state), native.its.RUNNING);
    if (size < 0 || count_received(socket, size) < 0)
        return NULL;
    if (!IS(socket, Socket, _buffer, Py_None)) {
        whole = PyObject_CallMethodOneArg(socket, native.name._behind_unread, data);
        if (whole == NULL)
            return NULL;
        data = whole;
    }
    if (heard(native.its.async_recv) &&
        done(PyObject_CallMethodOneArg(self, native.name._tell_arrival, data)) < 0)
        goto failed;
    int blocks = TRUTH(self, Task, blocks);
    if (blocks > 0)
        blocks = done(PyObject_CallNoArgs(native.its.make_way));
    if (blocks < 0)
        goto failed;
    result = deliver(self, data, socket);
    Py_CLEAR(whole);
    if (result == NULL)
        return handled(self, native.name._raised, native.handle_data);
    PyObject *verdict = NULL;
    if (result != Py_None || !IS(self, Task, alert, Py_False)) {
        verdict = after_data(self, result, size);
    } else {
        double now;
        if (read_clock(GET(self, Lifecycle, _clock), &now) == 0 && park(self, now) == 0) {
            int parks = size < CHUNK ? TRUTH(self, Lifecycle, _short_proves) : 0;
            if (parks > 0)
                verdict = PyLong_FromLong(PARK);
            else if (parks == 0)
                verdict = drained_after(self, size);
        }
    }
    Py_DECREF(result);
    return verdict;
failed:
    Py_XDECREF(whole);
    return NULL;
}

/* The `Socket` of a connection, to be let go of; NULL: it raised. */
static PyObject *socket_of(PyObject *self) {
    PyObject *socket = HOLD(self, Lifecycle, _socket);
    if (socket != NULL && TAKES(socket, Socket) < 0)
        Py_CLEAR(socket);
    return socket;
}

PyObject *native_run(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    if (!IS(self, Task, alert, Py_False) || !IS(self, Lifecycle, _state, native.its.PARKED))
        return call1(native.its.run, self);
    PyObject *source = HOLD(self, Lifecycle, _source);
    PyObject *data = source == NULL ? NULL : receive(self, source);
    Py_XDECREF(source);
    if (data == NULL) {
        if (!PyErr_ExceptionMatches(PyExc_OSError))
            return NULL;
        return handled(self, native.name._receive_failed, NULL);
    }
    PyObject *verdict = NULL;
    int some = PyObject_IsTrue(data);
    if (some == 0) {
        PyObject *method = data == Py_None ? native.name._nothing_there
                                           : native.name._end_of_stream;
        verdict = PyObject_CallMethodNoArgs(self, method);
    } else if (some > 0) {
        PyObject *socket = socket_of(self);
        if (socket != NULL)
            verdict = step(self, socket, data);
        Py_XDECREF(socket);
    }
    Py_DECREF(data);
    return verdict;
}

/* `ConnectionCore._become`: five times for a connection that comes and goes. */
PyObject *native_become(PyObject *self, PyObject *state) {
    if (IS(self, Core, _state, state))
        Py_RETURN_NONE;
    PyObject *before = HOLD(self, Core, _state);
    if (before == NULL)
        return NULL;
    PyObject *allowed = Py_XNewRef(PyDict_GetItemWithError(native.its.TRANSITIONS, before));
    Py_DECREF(before);
    int may = allowed == NULL ? (PyErr_Occurred() ? -1 : 0)
              : PyAnySet_Check(allowed) ? PySet_Contains(allowed, state)
                                        : 0;
    Py_XDECREF(allowed);
    if (may < 0)
        return NULL;
    if (may == 0)
        return call2(native.its.become, self, state); /* which says what is wrong */
    set(SLOT(self, Core, _state), state);
    Py_RETURN_NONE;
}

static PyObject *ended(PyObject *verdict, bool came) {
    if (verdict == NULL)
        return NULL;
    return Py_BuildValue("(NO)", verdict, came ? Py_True : Py_False);
}

/* What a stay was given says it. -1: it raised. */
static int asked(PyObject *wanted, double duration) {
    PyObject *seconds = PyFloat_FromDouble(duration);
    PyObject *answer = seconds == NULL ? NULL : PyObject_CallOneArg(wanted, seconds);
    Py_XDECREF(seconds);
    int leaves = answer == NULL ? -1 : PyObject_IsTrue(answer);
    Py_XDECREF(answer);
    return leaves;
}

/* As `Affinity.wanted`. -1: it raised. */
static int is_wanted(PyObject *affinity) {
    PyObject *permits = GET(affinity, Affinity, _permits);
    PyObject *table = permits == NULL ? NULL : GET(affinity, Affinity, _table);
    PyObject *workers = table == NULL ? NULL : GET(affinity, Affinity, _workers);
    if (workers == NULL || TAKES(permits, Permits) < 0 || TAKES(table, TaskTable) < 0 ||
        TAKES(workers, Workers) < 0)
        return -1;
    Py_ssize_t holders = list_size(GET(permits, Permits, _holders));
    if (holders < 0)
        return -1;
    if (holders == 0 || !IS(table, TaskTable, closing, Py_False))
        return 1;
    long count, bound;
    Py_ssize_t resting = list_size(GET(permits, Permits, _resting));
    if (resting < 0 || whole(GET(workers, Workers, count), &count) < 0 ||
        whole(GET(workers, Workers, _bound), &bound) < 0)
        return -1;
    return resting == 0 && count >= bound;
}

/* As `Wanted`, or whatever else a stay was given. -1: it raised. */
static int better_to_do(PyObject *wanted, double duration) {
    if (!is_exactly(wanted, native.its.Wanted))
        return asked(wanted, duration);
    PyObject *worker = GET(wanted, Wanted, worker), *affinity = NULL, *task = NULL;
    if (worker == NULL || (affinity = GET(wanted, Wanted, affinity)) == NULL ||
        (task = GET(wanted, Wanted, task)) == NULL)
        return -1;
    if (!is_exactly(worker, native.its.Worker) || !IS_A(affinity, Affinity) ||
        !IS_A(task, Task))
        return asked(wanted, duration);
    if (ADD(worker, Worker, turn, 1) < 0)
        return -1;
    if (duration < native.hand_over_cost) {
        set(SLOT(wanted, Wanted, quick), Py_True);
        return 1;
    }
    return IS(task, Task, blocks, Py_False) ? 1 : is_wanted(affinity);
}

/* One step of a stay. True: it ends with `*outcome`, which is NULL if something raised. */
static bool stay_step(PyObject *self, PyObject *socket, PyObject *channel, PyObject *timeout,
                      PyObject *wanted, PyObject **outcome) {
    *outcome = NULL;
    if (!IS(self, Task, alert, Py_False)) {
        *outcome = ended(PyLong_FromLong(AGAIN), true);
        return true;
    }
    PyObject *data = wait_for(channel, timeout), *result = NULL;
    bool ends = true;
    if (data == NULL) {
        if (PyErr_ExceptionMatches(PyExc_OSError))
            *outcome = ended(handled(self, native.name._receive_failed, NULL), true);
        return true;
    }
    if (data == Py_None) {
        Py_DECREF(data);
        *outcome = ended(PyObject_CallMethodNoArgs(self, native.name._nothing_there), false);
        return true;
    }
    Py_ssize_t size = PyObject_Size(data);
    double began, over;
    if (size < 0 || count_received(socket, size) < 0)
        goto out;
    if (size == 0 || !IS(self, Task, alert, Py_False) ||
        !IS(socket, Socket, _buffer, Py_None)) {
        *outcome = ended(PyObject_CallMethodOneArg(self, native.name._came_early, data), true);
        goto out;
    }
    set(SLOT(self, Lifecycle, _state), native.its.RUNNING);
    if (heard(native.its.async_recv) &&
        done(PyObject_CallMethodOneArg(self, native.name._tell_arrival, data)) < 0)
        goto out;
    if (read_clock(GET(self, Lifecycle, _clock), &began) < 0)
        goto out;
    result = deliver(self, data, socket);
    if (result == NULL) {
        *outcome = ended(handled(self, native.name._raised, native.handle_data), true);
        goto out;
    }
    if (result != Py_None || !IS(self, Task, alert, Py_False)) {
        *outcome = ended(after_data(self, result, size), true);
        goto out;
    }
    if (read_clock(GET(self, Lifecycle, _clock), &over) < 0 || park(self, over) < 0)
        goto out;
    if (size == CHUNK) {
        *outcome = ended(PyLong_FromLong(AGAIN), true);
        goto out;
    }
    int leaves = better_to_do(wanted, over - began);
    if (leaves > 0)
        *outcome = ended(PyLong_FromLong(PARK), true);
    ends = leaves != 0;
out:
    Py_XDECREF(result);
    Py_DECREF(data);
    return ends;
}

PyObject *native_stay(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "stay takes timeout and wanted");
    PyObject *socket = socket_of(self), *outcome = NULL;
    PyObject *channel = socket == NULL ? NULL : HOLD(socket, Socket, _channel);
    bool ends = channel == NULL;
    for (int left = STAY_STEPS; left > 0 && !ends; left--)
        ends = stay_step(self, socket, channel, args[0], args[1], &outcome);
    Py_XDECREF(channel);
    Py_XDECREF(socket);
    return ends ? outcome : ended(PyLong_FromLong(PARK), true);
}
