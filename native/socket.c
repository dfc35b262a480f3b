/* The twins of `Sending.send` and `Receiving.recv`. */

#include "native.h"

/* How many bytes a sink took at once; negative as of `Sink.send`. -1: it raised. */
static int push(PyObject *sink, PyObject *data, Py_ssize_t *sent) {
    *sent = 0;
    if (!Py_IS_TYPE(sink, native.socket_type)) {
        PyObject *arguments[] = {sink, data, native.quietly};
        PyObject *taken = PyObject_VectorcallMethod(native.name.send, arguments, 3, NULL);
        if (taken == NULL) {
            if (!PyErr_ExceptionMatches(PyExc_BlockingIOError))
                return -1;
            PyErr_Clear();
            return 0;
        }
        *sent = PyLong_AsSsize_t(taken);
        Py_DECREF(taken);
        return PyErr_Occurred() ? -1 : 0;
    }
    *sent = send_to(sink, data);
    return *sent < 0 ? -1 : 0;
}

/* With the lock of sending, which goes: all went out, and is counted. */
static PyObject *sent_all(PyObject *self, PyObject *lock, PyObject *given, Py_ssize_t sent) {
    PyObject *received = HOLD(self, Socket, _bytes_received);
    int failed = received == NULL || ADD(self, Socket, _bytes_sent, sent) < 0 ||
                         ADD(self, Socket, _send_count, 1) < 0
                     ? -1
                     : 0;
    if (received != NULL)
        put(SLOT(self, Socket, _answered), received);
    lock_release(lock);
    PyObject *length = failed < 0 ? NULL : PyLong_FromSsize_t(sent);
    if (length != NULL && heard(native.its.socket_send) &&
        done(PyObject_CallMethodObjArgs(self, native.name._tell_sent, given, length, NULL)) < 0)
        Py_CLEAR(length);
    return length;
}

/* A new reference to one piece of bytes, as `_joined`: what was given, or all of a list in one.
   NULL, perhaps without an exception: it is neither, or large. */
static PyObject *one_piece(PyObject *given) {
    if (PyBytes_CheckExact(given))
        return Py_NewRef(given);
    if (!PyList_CheckExact(given) || PyList_GET_SIZE(given) == 0)
        return NULL;
    Py_ssize_t size = 0, count = PyList_GET_SIZE(given);
    for (Py_ssize_t index = 0; index < count; index++) {
        if (!PyBytes_CheckExact(PyList_GET_ITEM(given, index)))
            return NULL;
        size += PyBytes_GET_SIZE(PyList_GET_ITEM(given, index));
    }
    if (count == 1)
        return Py_NewRef(PyList_GET_ITEM(given, 0));
    PyObject *joined = size > JOINED_MOST ? NULL : PyBytes_FromStringAndSize(NULL, size);
    char *end = joined == NULL ? NULL : PyBytes_AS_STRING(joined);
    for (Py_ssize_t index = 0; joined != NULL && index < count; index++) {
        PyObject *piece = PyList_GET_ITEM(given, index);
        memcpy(end, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece));
        end += PyBytes_GET_SIZE(piece);
    }
    return joined;
}

/* With the lock of sending, which goes. `given`: what receivers are told of. */
static PyObject *send_now(PyObject *self, PyObject *lock, PyObject *data, PyObject *given) {
    PyObject *result = NULL;
    Py_ssize_t sent = 0;
    if (IS(self, Socket, _closed, Py_False)) {
        PyObject *sink = HOLD(self, Socket, _sink);
        int failed = sink == NULL ? -1 : push(sink, data, &sent);
        Py_XDECREF(sink);
        if (failed < 0) {
            bool system = PyErr_ExceptionMatches(PyExc_OSError);
            lock_release(lock);
            return system ? handled(self, native.name._broke_off, NULL) : NULL;
        }
    }
    if (sent == PyBytes_GET_SIZE(data)) {
        result = sent_all(self, lock, given, sent);
    } else {
        /* Negative: all that was taken counts as sent, but a rest waits to be flushed. */
        PyObject *taken = PyLong_FromSsize_t(sent >= 0 ? sent : ~sent);
        if (taken != NULL)
            result = PyObject_CallMethodObjArgs(self, native.name._send, data, taken, native.zero,
                                                native.missing, Py_False, Py_True, given, NULL);
        if (result == NULL)
            lock_release(lock); /* it is ours still if it was not even called */
        Py_XDECREF(taken);
    }
    return result;
}

PyObject *native_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *lock = HOLD(self, Socket, _sending);
    if (lock == NULL)
        return NULL;
    PyObject *data = count == 1 && names == NULL ? one_piece(args[0]) : NULL;
    if (data == NULL || !Py_IS_TYPE(lock, &Lock_Type) || !lock_try(lock)) {
        Py_XDECREF(data);
        Py_DECREF(lock);
        return PyErr_Occurred() ? NULL : call_original(native.its.send, self, args, count, names);
    }
    PyObject *result = send_now(self, lock, data, args[0]);
    Py_DECREF(lock);
    Py_DECREF(data);
    return result;
}

/* `_waited`: the Python goes on with what was met instead of bytes. */
static PyObject *waited(PyObject *self, Py_ssize_t length, double began, PyObject *data) {
    int met = data == NULL ? errno : data == Py_None ? EAGAIN : 0;
    if (data == NULL && !PyErr_ExceptionMatches(PyExc_OSError))
        return NULL;
    PyErr_Clear();
    return PyObject_CallMethod(self, "_waited", "ndi", length, began, met);
}

/* With the lock of receiving, which goes: a receive that waits in the kernel. */
static PyObject *wait_again(PyObject *self, PyObject *lock, int fd, Py_ssize_t length) {
    double began = seconds_now();
    PyObject *data = receive_from(fd, length, 0);
    int met = errno;
    Py_ssize_t size = data == NULL || data == Py_None ? 0 : PyBytes_GET_SIZE(data);
    int failed = size == 0 ? 0
                           : ADD(self, Socket, _bytes_received, size) < 0 ||
                                 ADD(self, Socket, _recv_count, 1) < 0;
    lock_release(lock);
    if (size == 0) {
        errno = met;
        PyObject *result = waited(self, length, began, data);
        Py_XDECREF(data);
        return result;
    }
    if (failed || (heard(native.its.socket_recv) &&
                   done(PyObject_CallMethodOneArg(self, native.name._tell, data)) < 0))
        Py_CLEAR(data);
    return data;
}

/* A receive by the owner, which has waited in the kernel before: it waits there again. NULL
   without an exception: the Python code shall do it. */
static PyObject *receive_again(PyObject *self, Py_ssize_t length) {
    PyObject *waiter = GET(self, Socket, _waiter), *sock, *lock;
    if (waiter == NULL || (sock = GET(self, Socket, _sock)) == NULL ||
        (lock = GET(self, Socket, _receiving)) == NULL || takes(waiter, &PyLong_Type) < 0)
        return NULL;
    unsigned long known = PyLong_AsUnsignedLong(waiter);
    if (known == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    if (known != PyThread_get_thread_ident() || length <= 0 || length > CHUNK ||
        !Py_IS_TYPE(sock, native.socket_type) || !Py_IS_TYPE(lock, &Lock_Type))
        return NULL;
    int fd;
    PyObject *data = NULL;
    Py_INCREF(lock);
    if (lock_try(lock)) {
        if (descriptor(sock, &fd) < 0 || fd < 0)
            lock_release(lock);
        else
            data = wait_again(self, lock, fd, length);
    }
    Py_DECREF(lock);
    return data;
}

/* What `close` begins with, where there is no memory even to call it: nobody receives any more,
   and the connection's next step is its last. */
static void close_without_memory(PyObject *self) {
    set(SLOT(self, Socket, _closed), Py_True);
    set(SLOT(self, Socket, _waiter), native.zero);
    PyObject *connection = PyObject_GetAttr(self, native.name._connection);
    if (connection == NULL || PyObject_SetAttr(connection, native.name.alert, Py_True) < 0)
        PyErr_Clear(); /* a stand-in's, which has no steps */
    Py_XDECREF(connection);
}

/* There was no memory for bytes that the kernel has given already: nobody shall take those that
   follow for them. */
static void close_after_loss(PyObject *self) {
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    if (done(PyObject_CallMethodNoArgs(self, native.name.close)) < 0) {
        PyErr_Clear(); /* what is told of is worse */
        close_without_memory(self);
    }
    PyErr_Restore(kind, error, traceback);
}

PyObject *native_recv(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    if (names == NULL && (count == 0 || (count == 1 && PyLong_CheckExact(args[0])))) {
        Py_ssize_t length = count == 0 ? CHUNK : PyLong_AsSsize_t(args[0]);
        if (length == -1 && PyErr_Occurred())
            PyErr_Clear(); /* too large; it is negative, so the Python code gets it */
        PyObject *data = receive_again(self, length);
        if (data == NULL && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError))
            close_after_loss(self);
        if (data != NULL || PyErr_Occurred())
            return data;
    }
    return call_original(native.its.recv, self, args, count, names);
}
