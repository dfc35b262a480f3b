/* `Socket`, with `send` and `recv`: those of its `Writer` and its `Reader`, one call less. And
   `TCPChannel`, with `wait_recv`. */

#include "scheduler.h"

/* How many bytes a sink took at once; negative as of `Sink.send`. -1: it raised. */
static int push(PyObject *sink, PyObject *data, Py_ssize_t *sent) {
    *sent = 0;
    if (!Py_IS_TYPE(sink, native->socket_type)) {
        PyObject *arguments[] = {sink, data, native->quietly};
        PyObject *taken = PyObject_VectorcallMethod(native->name.send, arguments, 3, NULL);
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

static PyObject *reader_of(PyObject *socket) {
    PyObject *reader = GET(socket, Socket, _reader);
    return reader != NULL && TAKES(reader, Reader) == 0 ? reader : NULL;
}

static PyObject *writer_of(PyObject *socket) {
    PyObject *writer = GET(socket, Socket, _writer);
    return writer != NULL && TAKES(writer, Writer) == 0 ? writer : NULL;
}

static PyObject *taken_stream(PyObject *stream) {
    return stream != NULL && TAKES(stream, Duplex) == 0 ? stream : NULL;
}

/* As `Reader.count`. */
static int count(PyObject *reader, Py_ssize_t size) {
    if (ADD(reader, Reader, bytes_received, size) < 0)
        return -1;
    return ADD(reader, Reader, recv_count, 1);
}

PyObject *socket_received(PyObject *socket, PyObject *data, Py_ssize_t size) {
    PyObject *reader = reader_of(socket);
    if (reader == NULL)
        return NULL;
    PyObject *whole = NULL;
    Py_INCREF(reader);
    if (!IS(reader, Reader, buffer, Py_None))
        whole = PyObject_CallMethodOneArg(reader, native->name.received, data);
    else if (count(reader, size) == 0)
        whole = Py_NewRef(data);
    Py_DECREF(reader);
    return whole;
}

PyObject *socket_channel(PyObject *socket) {
    PyObject *reader = reader_of(socket);
    PyObject *stream = reader == NULL ? NULL : taken_stream(GET(reader, Reader, _stream));
    return stream == NULL ? NULL : HOLD(stream, Duplex, channel);
}

/* With the turn to send, which goes: all went out, and is counted. */
static PyObject *sent_all(PyObject *self, PyObject *turn, Py_ssize_t sent) {
    PyObject *reader = GET(self, Writer, _reader), *received = NULL;
    if (reader != NULL && TAKES(reader, Reader) == 0)
        received = HOLD(reader, Reader, bytes_received);
    bool counted = received != NULL && ADD(self, Writer, bytes_sent, sent) == 0 &&
                   ADD(self, Writer, send_count, 1) == 0;
    if (received != NULL)
        put(SLOT(self, Writer, answered), received);
    lock_release(turn);
    return counted ? PyLong_FromSsize_t(sent) : NULL;
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

/* With the turn to send, which goes. `given`: what receivers are told of. */
static PyObject *send_now(PyObject *self, PyObject *turn, PyObject *data, PyObject *given) {
    PyObject *result = NULL, *stream = taken_stream(GET(self, Writer, _stream));
    Py_ssize_t sent = 0;
    if (stream == NULL) {
        lock_release(turn);
        return NULL;
    }
    if (IS(stream, Duplex, state, native->its.OPEN)) {
        PyObject *sink = HOLD(self, Writer, _sink);
        int failed = sink == NULL ? -1 : push(sink, data, &sent);
        Py_XDECREF(sink);
        if (failed < 0) {
            bool system = PyErr_ExceptionMatches(PyExc_OSError);
            lock_release(turn);
            return system ? handled(self, native->name._broke_off, NULL) : NULL;
        }
    }
    if (sent == PyBytes_GET_SIZE(data)) {
        result = sent_all(self, turn, sent);
    } else {
        /* Negative: all that was taken counts as sent, but a rest waits to be flushed. */
        PyObject *already = PyLong_FromSsize_t(sent >= 0 ? sent : ~sent);
        if (already != NULL)
            result = PyObject_CallMethodObjArgs(self, native->name._send_rest, data, already, given,
                                                NULL);
        if (result == NULL)
            lock_release(turn); /* it is ours still if it was not even called */
        Py_XDECREF(already);
    }
    return result;
}

/* The Python's: of the reader or the writer, which takes the same. */
static PyObject *ask(PyObject *whom, PyObject *method, PyObject *const *args, Py_ssize_t count,
                     PyObject *names) {
    PyObject *all[6] = {whom};
    Py_ssize_t words = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (count > 2)
        return PyErr_Format(PyExc_TypeError, "%U() takes at most 2 positional arguments", method);
    if (count + words > 5)
        return PyErr_Format(PyExc_TypeError, "%U() takes at most 3 arguments", method);
    for (Py_ssize_t index = 0; index < count + words; index++)
        all[index + 1] = args[index];
    return whom == NULL ? NULL : PyObject_VectorcallMethod(method, all, count + 1, names);
}

static PyObject *socket_send(PyObject *self, PyObject *const *args, Py_ssize_t count, PyObject *names) {
    PyObject *writer = is_bound() < 0 ? NULL : Py_XNewRef(writer_of(self));
    PyObject *turn = writer == NULL ? NULL : HOLD(writer, Writer, _sending), *result = NULL;
    bool common = turn != NULL && count == 1 && names == NULL && !heard(native->its.socket_send);
    PyObject *data = common ? one_piece(args[0]) : NULL;
    if (data != NULL && Py_IS_TYPE(turn, native->type.Lock) && lock_try(turn))
        result = send_now(writer, turn, data, args[0]);
    else if (!PyErr_Occurred())
        result = ask(writer, native->name.send, args, count, names);
    Py_XDECREF(data);
    Py_XDECREF(turn);
    Py_XDECREF(writer);
    return result;
}

/* With the turn to receive, which goes: a receive that waits in the kernel. */
static PyObject *wait_again(PyObject *self, PyObject *turn, int fd, Py_ssize_t length) {
    double began = seconds_now();
    PyObject *data = receive_from(fd, length, 0);
    int met = data == NULL ? errno : data == Py_None ? EAGAIN : 0;
    Py_ssize_t size = data == NULL || data == Py_None ? 0 : PyBytes_GET_SIZE(data);
    int failed = size == 0 ? 0 : count(self, size);
    lock_release(turn);
    if (failed < 0)
        Py_CLEAR(data);
    if (data == NULL && PyErr_ExceptionMatches(PyExc_OSError)) {
        PyErr_Clear();
        data = Py_NewRef(Py_None);
    }
    if (data == NULL || (size > 0 && !heard(native->its.socket_recv)))
        return data;
    PyObject *result = PyObject_CallMethod(self, "_waited", "ndiO", length, began, met, data);
    Py_DECREF(data);
    return result;
}

/* A receive by the owner, which has waited in the kernel before: it waits there again. NULL
   without an exception: the Python code shall do it. */
static PyObject *receive_again(PyObject *self, Py_ssize_t length) {
    PyObject *stream = taken_stream(GET(self, Reader, _stream)), *waiter, *sock, *turn;
    if (stream == NULL || (waiter = GET(stream, Duplex, waiter)) == NULL ||
        (sock = GET(stream, Duplex, sock)) == NULL ||
        (turn = GET(self, Reader, _receiving)) == NULL || takes(waiter, &PyLong_Type) < 0)
        return NULL;
    unsigned long known = PyLong_AsUnsignedLong(waiter);
    if (known == (unsigned long)-1 && PyErr_Occurred())
        return NULL;
    if (known != PyThread_get_thread_ident() || length <= 0 || length > CHUNK ||
        !Py_IS_TYPE(sock, native->socket_type) || !Py_IS_TYPE(turn, native->type.Lock))
        return NULL;
    int fd;
    PyObject *data = NULL;
    Py_INCREF(turn);
    if (lock_try(turn)) {
        if (descriptor(sock, &fd) < 0 || fd < 0)
            lock_release(turn);
        else
            data = wait_again(self, turn, fd, length);
    }
    Py_DECREF(turn);
    return data;
}

/* What `close` begins with, where there is no memory even to call it: nobody receives any more,
   and the connection's next step is its last. */
static void close_without_memory(PyObject *self) {
    PyObject *reader = reader_of(self);
    PyObject *stream = reader == NULL ? NULL : taken_stream(GET(reader, Reader, _stream));
    if (stream == NULL) {
        PyErr_Clear();
        return;
    }
    set(SLOT(stream, Duplex, state), native->its.CLOSED_STATE);
    set(SLOT(stream, Duplex, waiter), native->zero);
    PyObject *connection = *SLOT(stream, Duplex, connection);
    if (connection != NULL && PyObject_TypeCheck(connection, native->type.Task))
        set(SLOT(connection, Task, alert), Py_True); /* a stand-in's has no steps */
}

/* There was no memory for bytes that the kernel has given already: nobody shall take those that
   follow for them. */
static void close_after_loss(PyObject *self) {
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    if (done(PyObject_CallMethodNoArgs(self, native->name.close)) < 0) {
        PyErr_Clear(); /* what is told of is worse */
        close_without_memory(self);
    }
    PyErr_Restore(kind, error, traceback);
}

static PyObject *socket_recv(PyObject *self, PyObject *const *args, Py_ssize_t count,
                             PyObject *names) {
    PyObject *data = NULL, *reader = is_bound() < 0 ? NULL : Py_XNewRef(reader_of(self));
    if (reader != NULL && names == NULL &&
        (count == 0 || (count == 1 && PyLong_CheckExact(args[0])))) {
        Py_ssize_t length = count == 0 ? CHUNK : PyLong_AsSsize_t(args[0]);
        if (length == -1 && PyErr_Occurred())
            PyErr_Clear(); /* too large; it is negative, so the Python code gets it */
        data = receive_again(reader, length);
        if (data == NULL && PyErr_Occurred() && PyErr_ExceptionMatches(PyExc_MemoryError))
            close_after_loss(self);
    }
    if (data == NULL && !PyErr_Occurred())
        data = ask(reader, native->name.recv, args, count, names);
    Py_XDECREF(reader);
    return data;
}

/* Waits in the kernel, whose time limit is this one already. */
static PyObject *channel_wait_recv(PyObject *self, PyObject *const *args, Py_ssize_t count) {
    double limit = 0, known = 0;
    int fd, asked = -1;
    if (count != 2)
        return PyErr_Format(PyExc_TypeError, "wait_recv takes length and timeout");
    PyObject *sock = GET(self, TCPChannel, _sock);
    if (sock == NULL)
        return NULL;
    if (PyLong_Check(args[0]) && PyFloat_CheckExact(args[1]) &&
        (number_of(args[0], &asked) < 0 || seconds_of(args[1], &limit) < 0))
        PyErr_Clear();
    if (seconds_of(GET(self, TCPChannel, _receive_timeout), &known) < 0)
        return NULL;
    if (limit != known || asked < 0 || asked > CHUNK ||
        !Py_IS_TYPE(*SLOT(self, TCPChannel, _sock), native->socket_type)) {
        PyObject *arguments[] = {self, args[0], args[1]};
        return PyObject_VectorcallMethod(native->name.wait_anew, arguments, 3, NULL);
    }
    if (descriptor(GET(self, TCPChannel, _sock), &fd) < 0)
        return NULL;
    return receive_from(fd, asked, 0);
}

static PyMethodDef Socket_methods[] = {
    {"send", QUICKLY(socket_send), METH_FASTCALL | METH_KEYWORDS,
     "send($self, /, data, flags=0, *, timeout_ms=...)\n--\n\n"},
    {"recv", QUICKLY(socket_recv), METH_FASTCALL | METH_KEYWORDS,
     "recv($self, /, length=65536, flags=0, *, timeout_ms=...)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef TCPChannel_methods[] = {
    {"wait_recv", QUICKLY(channel_wait_recv), METH_FASTCALL,
     "wait_recv($self, length, timeout, /)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

#define Self Socket
PLAIN_TYPE(Socket, DOES(Socket){Py_tp_doc, "Socket(stream, reader, writer, /)\n--\n\n"},)
#undef Self
#define Self TCPChannel
PLAIN_TYPE(TCPChannel, DOES(TCPChannel){Py_tp_doc, "TCPChannel(sock, /)\n--\n\n"},)
#undef Self
