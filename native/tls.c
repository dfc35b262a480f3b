/* The base types of `_tls.wire.Wire` and `_tls.stream.Stream`: their fields, and a short cut for
   what a message pays for, a record that came whole, and what goes out in one go. The Python
   beside them (`PythonWire`, `PythonStream`) has the same fields and goes the long way, as this
   does with all else: `receive`, `transmit`, `go_on`, `refused`, `keep`, `failed`.

   It calls the functions of OpenSSL that `PrivateRecords` calls, but by their addresses. Through
   pyOpenSSL each of them lets go of the GIL, which with 16 KiB takes as long as the encryption,
   and where several threads send, the switches took more than all encryption: for 64 MiB 20,000
   of them. Here a small record, which is done in a microsecond or two, keeps the GIL, and large
   ones let go of it once, the send(2) included. */

#include "types.h"

#include <errno.h>
#include <sys/socket.h>

#define Wire_FIELDS(G, O, F, Z, I, R, B, D, N)                                                 \
    R(sock) O(source) O(held) B(owed) B(kernel_drained) B(reads_ended) B(exposed) N(recv_wants)    \
    N(send_wants)
/* `keeps` keeps OpenSSL's objects where they are. */
#define Stream_FIELDS(G, O, F, Z, I, R, B, D, N) R(lock) R(wire) R(keeps) O(unread) B(large)
STRUCT(Wire, )
STRUCT(Stream, void *ssl; void *in; void *out;)

/* `READ` and `WRITE`; what encryption adds to a small record, and more. */
enum { WANTS_READ = 1, WANTS_WRITE = 4, ADDED = 256 };

/* ---- a wire ---------------------------------------------------------------- */

/* With the lock: as `PythonWire.fetch`. */
static PyObject *fetch(Wire *self) {
    PyObject *data, *source = Py_XNewRef(in_slot((PyObject *)self, &self->source));
    if (source == NULL)
        return NULL;
    int fd;
    if (!Py_IS_TYPE(source, native->socket_type)) {
        data = PyObject_CallMethod(source, "recv", "ii", LARGEST, MSG_DONTWAIT);
        if (data == NULL && PyErr_ExceptionMatches(PyExc_BlockingIOError)) {
            PyErr_Clear();
            data = Py_NewRef(Py_None);
        }
    } else {
        data = descriptor(source, &fd) < 0 ? NULL : receive_from(fd, LARGEST, MSG_DONTWAIT);
    }
    if (data == Py_None) {
        self->kernel_drained = 1;
        self->recv_wants = WANTS_READ;
    } else if (data != NULL && takes(data, &PyBytes_Type) < 0) {
        Py_CLEAR(data);
    } else if (data != NULL) { /* it may have been exposed meanwhile */
        self->kernel_drained = PyBytes_GET_SIZE(data) < LARGEST && self->source == self->sock;
    }
    Py_DECREF(source);
    return data;
}

static PyObject *wire_fetch(PyObject *self, PyObject *Py_UNUSED(ignored)) {
    return fetch((Wire *)self);
}

static int Wire_init(Wire *self, PyObject *arguments, PyObject *names) {
    PyObject *sock;
    if (!PyArg_ParseTuple(arguments, "O", &sock))
        return -1;
    (void)names;
    set(&self->sock, sock);
    set(&self->source, sock);
    set(&self->held, Py_None);
    self->owed = self->kernel_drained = self->reads_ended = self->exposed = 0;
    self->recv_wants = WANTS_READ;
    self->send_wants = WANTS_WRITE;
    return 0;
}

/* Until then, in seconds, kernels' buffers take less than they say: memory is short (tcp_mem). */
static int64_t scarce_until;
enum { SCARCE_S = 2 };

static int64_t second(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec;
}

/* With the lock: what was encrypted and found no room. Nothing was held before. */
static int hold(Wire *self, const char *rest, Py_ssize_t size) {
    if (size > LARGEST)
        __atomic_store_n(&scarce_until, second() + SCARCE_S, __ATOMIC_RELAXED);
    PyObject *held = PyBytes_FromStringAndSize(rest, size);
    if (held == NULL)
        return -1;
    put(&self->held, held);
    self->send_wants = WANTS_WRITE;
    return 0;
}

/* With the lock: how many of `size` bytes may be encrypted now, as `Wire.room_for`. */
static Py_ssize_t room_for(int fd, Py_ssize_t size) {
    enum { SENDING = 2, ROOM = 3, QUEUED = 5, ALL = 9 };
    uint32_t found[ALL];
    socklen_t length = sizeof found;
    int64_t scarce = __atomic_load_n(&scarce_until, __ATOMIC_RELAXED);
    if (scarce != 0 && second() < scarce)
        return RECORD;
    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, found, &length) < 0 || length < sizeof found)
        return RECORD;
    int64_t taken = found[SENDING] > found[QUEUED] ? found[SENDING] : found[QUEUED];
    int64_t records = ((int64_t)found[ROOM] - taken) / (2 * RECORD);
    records = records < 1 ? 1 : records > BATCH ? BATCH : records;
    return size < records * RECORD ? size : (Py_ssize_t)records * RECORD;
}

/* ---- a stream -------------------------------------------------------------- */

static int Stream_init(Stream *self, PyObject *arguments, PyObject *names) {
    PyObject *lock, *wire;
    if (!PyArg_ParseTuple(arguments, "O!O!", native->type.RLock, &lock, native->type.Wire, &wire))
        return -1;
    (void)names;
    set(&self->lock, lock);
    set(&self->wire, wire);
    return 0;
}

/* place(ssl, in, out, keeps): `Records.places`; place(): there are none. */
static PyObject *stream_place(PyObject *object, PyObject *arguments) {
    Stream *self = (Stream *)object;
    unsigned long long ssl = 0, in = 0, out = 0;
    PyObject *keeps = NULL;
    if (PyTuple_GET_SIZE(arguments) > 0 &&
        !PyArg_ParseTuple(arguments, "KKKO", &ssl, &in, &out, &keeps))
        return NULL;
    bool all = ssl != 0 && in != 0 && out != 0 && native->bio_write != NULL; /* all four are there */
    self->ssl = all ? (void *)ssl : NULL;
    self->in = (void *)in;
    self->out = (void *)out;
    put(&self->keeps, Py_XNewRef(keeps));
    Py_RETURN_NONE;
}

/* The wire and the lock of a stream, held; -1: it has none. */
static int begin(Stream *self, Wire **wire, PyObject **lock) {
    if (in_slot((PyObject *)self, &self->lock) == NULL ||
        in_slot((PyObject *)self, &self->wire) == NULL)
        return -1;
    *lock = Py_NewRef(self->lock);
    *wire = (Wire *)Py_NewRef(self->wire);
    lock_wait(*lock);
    return 0;
}

static void end(Wire *wire, PyObject *lock) {
    lock_release(lock);
    Py_DECREF(wire);
    Py_DECREF(lock);
}

/* With the lock, with an error set: the stream is told of it if it is the system's, or if there
   was no memory. */
static void tell_failure(Stream *self) {
    if (!PyErr_ExceptionMatches(PyExc_MemoryError) && !PyErr_ExceptionMatches(PyExc_OSError))
        return;
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    PyErr_NormalizeException(&kind, &error, &traceback);
    if (done(PyObject_CallMethod((PyObject *)self, "failed", "O", error)) < 0)
        PyErr_Clear(); /* what is told of is worse */
    PyErr_Restore(kind, error, traceback);
}

/* ---- receiving ------------------------------------------------------------- */

/* With the lock: as `Stream._note`. */
static void note(Stream *self, PyObject *fetched) {
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(fetched);
    Py_ssize_t size = PyBytes_GET_SIZE(fetched);
    bool whole = size > 5 && size == (bytes[3] << 8 | bytes[4]) + 5;
    set(&self->unread, whole && self->unread == native->nothing ? native->whole : native->some);
    if (size > LARGE)
        self->large = 1;
}

/* With the lock: what `length` bytes at most of what was fetched are, decrypted. */
static PyObject *decrypt(Stream *self, PyObject *fetched, Py_ssize_t length) {
    Py_ssize_t size = PyBytes_GET_SIZE(fetched);
    /* A whole record takes more than what is in it. */
    Py_ssize_t most = self->unread == native->whole && size < RECORD ? size : RECORD;
    PyObject *data = PyBytes_FromStringAndSize(NULL, most < length ? most : length);
    if (data == NULL)
        return NULL;
    PyThreadState *here = size > LARGE ? PyEval_SaveThread() : NULL;
    int count = 0, taken = native->bio_write(self->in, PyBytes_AS_STRING(fetched), (int)size);
    if (taken == size)
        count = native->ssl_read(self->ssl, PyBytes_AS_STRING(data), (int)PyBytes_GET_SIZE(data));
    take_after_short_call(here);
    if (taken == size && count > 0) {
        if (_PyBytes_Resize(&data, count) == 0 && self->unread == native->whole && count < length)
            set(&self->unread, native->nothing);
        return data;
    }
    Py_DECREF(data);
    if (taken != size)
        return PyErr_NoMemory();
    return PyObject_CallMethod((PyObject *)self, "go_on", "nOi", length, fetched, count);
}

/* With the lock: whether the common case it is. What is unset is not. */
static bool one_record_may_come(Stream *self, Wire *wire) {
    return self->ssl != NULL && (self->unread == native->nothing || self->unread == native->part) &&
           self->unread != NULL && !wire->reads_ended && !wire->owed;
}

static PyObject *receive_record(Stream *self, Wire *wire, Py_ssize_t length) {
    PyObject *fetched = fetch(wire), *data;
    if (fetched == NULL || fetched == Py_None)
        return fetched;
    if (PyBytes_GET_SIZE(fetched) > 0) {
        note(self, fetched);
        data = decrypt(self, fetched, length);
    } else {
        data = PyObject_CallMethod((PyObject *)self, "go_on", "nOi", length, fetched, 0);
    }
    Py_DECREF(fetched);
    return data;
}

/* recv(length, flags=0) */
static PyObject *stream_recv(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Stream *self = (Stream *)object;
    if (count < 1 || count > 2)
        return PyErr_Format(PyExc_TypeError, "recv takes length and flags");
    Py_ssize_t length = PyLong_CheckExact(args[0]) ? PyLong_AsSsize_t(args[0]) : 0;
    if (length == -1)
        PyErr_Clear();
    Wire *wire;
    PyObject *lock, *data = NULL;
    if (begin(self, &wire, &lock) < 0)
        return NULL;
    bool common = length > 0 && one_record_may_come(self, wire);
    if (common) {
        data = receive_record(self, wire, length);
        if (data == NULL)
            tell_failure(self);
    }
    end(wire, lock);
    return common ? data : PyObject_CallMethod(object, "receive", "O", args[0]);
}

/* As `Stream.drained` where no question has to be asked; -1: that must be, or it is none. */
int tls_drained(PyObject *source) {
    if (native->bio_write == NULL || !PyObject_TypeCheck(source, native->type.Stream))
        return -1;
    Stream *self = (Stream *)source;
    if (self->wire == NULL || self->large || self->ssl == NULL ||
        (self->unread != native->nothing && self->unread != native->part))
        return -1;
    return ((Wire *)self->wire)->kernel_drained;
}

/* ---- sending --------------------------------------------------------------- */

/* With the lock: of `size` bytes of the caller's `total` were sealed, and `sent` of those went
   out. */
static PyObject *sent_on(Stream *self, Wire *wire, const char *sealed, Py_ssize_t total,
                         Py_ssize_t sent, Py_ssize_t room, Py_ssize_t size) {
    int failed = 0;
    if (total == room) /* there is more than a buffer of what OpenSSL has to say */
        failed = done(PyObject_CallMethod((PyObject *)self, "keep", "y#", sealed, total));
    else if (sent == total)
        return PyLong_FromSsize_t(size);
    else
        failed = hold(wire, sealed + sent, total - sent);
    return failed < 0 ? NULL : PyLong_FromSsize_t(~size);
}

/* With the lock: encrypts and sends `size` bytes, several records perhaps. */
static PyObject *seal_and_send(Stream *self, Wire *wire, int fd, char *bytes, Py_ssize_t size) {
    Py_ssize_t room = size > LARGE ? BATCH * LARGEST : LARGE + ADDED, begun = 0, sent = 0;
    char few[LARGE + ADDED], *sealed = size > LARGE ? large_room(room) : few;
    if (sealed == NULL)
        return NULL;
    int count = 1, total = 0, error = 0;
    PyThreadState *here = size > LARGE ? PyEval_SaveThread() : NULL;
    while (begun < size && count > 0) {
        Py_ssize_t left = size - begun;
        count = native->ssl_write(self->ssl, bytes + begun, (int)(left < RECORD ? left : RECORD));
        begun += count > 0 ? count : 0;
    }
    if (count > 0) {
        total = native->bio_read(self->out, sealed, (int)room);
        assert(total > 0); /* SSL_write(3) puts out at once what it takes */
        total = total > 0 ? total : 0;
        if (here == NULL && total < room)
            here = let_go_unless_dear();
        if (total < room) {
            sent = send(fd, sealed, total, MSG_DONTWAIT | MSG_NOSIGNAL);
            error = sent < 0 ? errno : 0;
        }
    }
    take_after_short_call(here);
    if (count <= 0)
        return PyObject_CallMethod((PyObject *)self, "refused", "in", count, begun);
    if (error == EAGAIN || error == EWOULDBLOCK) {
        sent = 0;
    } else if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    return sent_on(self, wire, sealed, total, sent, room, size);
}

/* With the lock: as `Stream.transmit`, of bytes. */
static PyObject *send_records(Stream *self, Wire *wire, Py_buffer *view) {
    int fd;
    Py_ssize_t size = view->len;
    PyObject *result = NULL;
    if (descriptor(wire->sock, &fd) == 0) {
        if (size > LARGE)
            self->large = 1;
        if (size > RECORD)
            size = room_for(fd, size);
        result = seal_and_send(self, wire, fd, view->buf, size);
    }
    if (result == NULL)
        tell_failure(self);
    return result;
}

/* send(data, flags=0) */
static PyObject *stream_send(PyObject *object, PyObject *const *args, Py_ssize_t count) {
    Stream *self = (Stream *)object;
    if (count < 1 || count > 2)
        return PyErr_Format(PyExc_TypeError, "send takes data and flags");
    Py_buffer view = {.obj = NULL};
    if ((PyBytes_CheckExact(args[0]) || PyMemoryView_Check(args[0])) &&
        PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        PyErr_Clear();
    Wire *wire;
    PyObject *lock, *result = NULL;
    bool common = false;
    if (begin(self, &wire, &lock) == 0) {
        common = view.obj != NULL && view.len > 0 && self->ssl != NULL &&
                 wire->held == Py_None && wire->sock != NULL &&
                 Py_IS_TYPE(wire->sock, native->socket_type);
        if (common)
            result = send_records(self, wire, &view);
        end(wire, lock);
    }
    if (view.obj != NULL)
        PyBuffer_Release(&view);
    if (common || PyErr_Occurred())
        return result;
    return PyObject_CallMethod(object, "transmit", "O", args[0]);
}

/* ---- the types ------------------------------------------------------------- */

static PyMethodDef Wire_methods[] = {
    {"fetch", wire_fetch, METH_NOARGS, "What has come, for OpenSSL."},
    {NULL, NULL, 0, NULL},
};
static PyMethodDef Stream_methods[] = {
    {"recv", QUICKLY(stream_recv), METH_FASTCALL, "recv($self, length, flags=0, /)\n--\n\n"},
    {"send", QUICKLY(stream_send), METH_FASTCALL, "send($self, data, flags=0, /)\n--\n\n"},
    {"place", stream_place, METH_VARARGS, "place($self, /, *places)\n--\n\n"},
    {NULL, NULL, 0, NULL},
};

#define Self Wire
TYPE(Wire, "TLSWire", BEGINS(Wire) DOES(Wire))
#undef Self
#define Self Stream
TYPE(Stream, "TLSStream", BEGINS(Stream) DOES(Stream))

/* bind_tls((part, nothing, whole, some), (ssl_read, ssl_write, bio_read, bio_write)): from now on
   there is a short cut. */
PyObject *bind_tls(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *part, *nothing, *whole, *some;
    unsigned long long functions[4];
    if (!PyArg_ParseTuple(arguments, "(OOOO)(KKKK)", &part, &nothing, &whole, &some, functions,
                          functions + 1, functions + 2, functions + 3))
        return NULL;
    if (!native->is_bound || native->bio_write != NULL)
        return PyErr_Format(PyExc_RuntimeError, "bind_tls: the module is taken");
    for (int which = 0; which < 4; which++)
        if (functions[which] == 0)
            return PyErr_Format(PyExc_TypeError, "bind_tls: function %d is nowhere", which);
    native->part = Py_NewRef(part);
    native->nothing = Py_NewRef(nothing);
    native->whole = Py_NewRef(whole);
    native->some = Py_NewRef(some);
    native->ssl_read = (OpenSSL)functions[0];
    native->ssl_write = (OpenSSL)functions[1];
    native->bio_read = (OpenSSL)functions[2];
    native->bio_write = (OpenSSL)functions[3];
    Py_RETURN_NONE;
}
