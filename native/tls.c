/* The twins of `TLSChannel.recv` and `_Sink.send`: of one record that came whole, and of one
   that goes out whole. OpenSSL is called as `PrivateRecords` calls it, through pyOpenSSL's
   functions; what is new is that it reads and writes bytes objects of just the right size,
   made here and seen by nobody yet, where Python needs a buffer and a copy. */

#include "native.h"

#include <sys/socket.h>

#define TLS_FIELDS(X)                                                                          \
    X(Wire, _aligned) X(Wire, _held) X(Wire, _inside) X(Wire, _kernel_drained) X(Wire, _large) \
    X(Wire, _lock) X(Wire, _owed) X(Wire, _records) X(Wire, _sock) X(Wire, recv_wants)         \
    X(TLSChannel, _reads_ended) X(PrivateRecords, _in) X(PrivateRecords, _out)                 \
    X(PrivateRecords, _ssl) X(Sink, _channel)
#define TLS_THINGS(X)                                                                          \
    X(TLSChannel) X(PrivateRecords) X(recv) X(sink_send) X(READ) X(ssl_read) X(ssl_write)      \
    X(bio_read) X(bio_write)
#define TLS_NAMES(X) X(_cut_short) X(_failure) X(_hold_back) X(_not_sealed) X(_read) X(get)

static struct {
    struct { TLS_FIELDS(DECLARE_FIELD) } at;
    struct { TLS_THINGS(DECLARE_OBJECT) } its;
    struct { TLS_NAMES(DECLARE_OBJECT) } name;
} tls;

#define TLS_FIELD(object, class, slot) (*(PyObject **)((char *)(object) + tls.at.class##__##slot))

/* As in `_tls_records` and `_tls_wire`; and what encryption adds to a small record, and more. */
enum { RECORD = 16384, LARGEST = RECORD + 2048 + 5, LARGE = 4096, ADDED = 256 };

/* Calls one of OpenSSL's functions (of what, bytes, how many); its number. -1: it raised. */
static long ask(PyObject *function, PyObject *of, PyObject *bytes, Py_ssize_t size) {
    PyObject *length = PyLong_FromSsize_t(size);
    if (length == NULL)
        return -1;
    PyObject *arguments[] = {of, bytes, length};
    PyObject *number = PyObject_Vectorcall(function, arguments, 3, NULL);
    Py_DECREF(length);
    long count = number == NULL ? -1 : PyLong_AsLong(number);
    Py_XDECREF(number);
    return count;
}

static PyObject *failure_of(PyObject *records, long count) {
    PyObject *result = PyLong_FromLong(count);
    PyObject *failure =
        result == NULL ? NULL : PyObject_CallMethodOneArg(records, tls.name._failure, result);
    Py_XDECREF(result);
    return failure;
}

static void set_flag(PyObject **field, bool flag) { set(field, flag ? Py_True : Py_False); }

/* With the lock: as `_fetch`, of bytes; `None`: nothing has come. */
static PyObject *fetch(PyObject *self) {
    int fd = descriptor(TLS_FIELD(self, Wire, _sock));
    PyObject *data = fd < 0 && PyErr_Occurred() ? NULL : receive_from(fd, LARGEST, MSG_DONTWAIT);
    if (data == NULL)
        return NULL;
    if (data == Py_None) {
        set(&TLS_FIELD(self, Wire, _kernel_drained), Py_True);
        set(&TLS_FIELD(self, Wire, recv_wants), tls.its.READ);
        return data;
    }
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(data);
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    bool whole = size > 5 && size == (bytes[3] << 8 | bytes[4]) + 5;
    if (size > LARGE)
        set(&TLS_FIELD(self, Wire, _large), Py_True);
    set_flag(&TLS_FIELD(self, Wire, _kernel_drained), size < LARGEST);
    set_flag(&TLS_FIELD(self, Wire, _aligned), is_true(TLS_FIELD(self, Wire, _aligned)) && whole);
    set_flag(&TLS_FIELD(self, Wire, _inside), size > 0);
    return data;
}

/* With the lock: what `length` bytes at most of what was fetched are, decrypted. */
static PyObject *decrypt(PyObject *self, PyObject *fetched, Py_ssize_t length) {
    PyObject *records = TLS_FIELD(self, Wire, _records);
    Py_ssize_t size = PyBytes_GET_SIZE(fetched);
    long taken = ask(tls.its.bio_write, TLS_FIELD(records, PrivateRecords, _in), fetched, size);
    if (taken != size)
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    /* A whole record takes more than what is in it. */
    Py_ssize_t most = is_true(TLS_FIELD(self, Wire, _aligned)) && size < RECORD ? size : RECORD;
    PyObject *data = PyBytes_FromStringAndSize(NULL, most < length ? most : length);
    if (data == NULL)
        return NULL;
    long count = ask(tls.its.ssl_read, TLS_FIELD(records, PrivateRecords, _ssl), data,
                     PyBytes_GET_SIZE(data));
    if (count > 0) {
        if (_PyBytes_Resize(&data, count) == 0 && is_true(TLS_FIELD(self, Wire, _aligned)) &&
            count < length)
            set(&TLS_FIELD(self, Wire, _inside), Py_False);
        return data;
    }
    Py_DECREF(data);
    PyObject *failure = PyErr_Occurred() ? NULL : failure_of(records, count);
    PyObject *asked = failure == NULL ? NULL : PyLong_FromSsize_t(length);
    data = asked == NULL ? NULL
                         : PyObject_CallMethodObjArgs(self, tls.name._read, asked, failure, NULL);
    Py_XDECREF(asked);
    Py_XDECREF(failure);
    return data;
}

static PyObject *tls_recv(PyObject *self, PyObject *const *args, Py_ssize_t count,
                          PyObject *names) {
    PyObject *lock = TLS_FIELD(self, Wire, _lock), *data;
    Py_ssize_t length = count > 0 && names == NULL ? PyLong_AsSsize_t(args[0]) : -1;
    if (length == -1 && PyErr_Occurred())
        return NULL;
    if (length <= 0 || !Py_IS_TYPE(TLS_FIELD(self, Wire, _sock), native.socket_type) ||
        !Py_IS_TYPE(TLS_FIELD(self, Wire, _records), (PyTypeObject *)tls.its.PrivateRecords) ||
        !Py_IS_TYPE(lock, &Lock_Type))
        return call_original(tls.its.recv, self, args, count, names);
    if (lock_wait(lock) < 0)
        return NULL;
    if (TLS_FIELD(self, TLSChannel, _reads_ended) != Py_False ||
        TLS_FIELD(self, Wire, _owed) != Py_False || TLS_FIELD(self, Wire, _inside) != Py_False) {
        lock_release(lock);
        return call_original(tls.its.recv, self, args, count, names);
    }
    data = fetch(self);
    if (data != NULL && data != Py_None) {
        PyObject *fetched = data;
        if (PyBytes_GET_SIZE(fetched) == 0)
            data = PyObject_CallMethodNoArgs(self, tls.name._cut_short);
        else
            data = decrypt(self, fetched, length);
        Py_DECREF(fetched);
    }
    lock_release(lock);
    return data;
}

/* With the lock: what OpenSSL has for the peer, after a record of so many bytes. */
static PyObject *encrypted(PyObject *records, Py_ssize_t size) {
    PyObject *first = PyBytes_FromStringAndSize(NULL, size + ADDED);
    if (first == NULL)
        return NULL;
    long count = ask(tls.its.bio_read, TLS_FIELD(records, PrivateRecords, _out), first,
                     size + ADDED);
    if (count < 0 || _PyBytes_Resize(&first, count) < 0) {
        Py_XDECREF(first);
        return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    }
    if (count == size + ADDED) { /* it has something of its own to say, too */
        PyObject *rest = PyObject_CallMethodNoArgs(records, tls.name.get);
        PyObject *more = rest == NULL ? NULL : PyBytes_FromObject(rest);
        Py_XDECREF(rest);
        if (more == NULL)
            Py_CLEAR(first);
        else
            PyBytes_ConcatAndDel(&first, more);
    }
    return first;
}

/* With the lock: sends `sealed`, which is `size` bytes of the caller's. */
static PyObject *pass_on(PyObject *channel, PyObject *sealed, Py_ssize_t size) {
    Py_ssize_t sent = send_to(TLS_FIELD(channel, Wire, _sock), sealed);
    if (sent < 0)
        return NULL;
    if (sent == PyBytes_GET_SIZE(sealed))
        return PyLong_FromSsize_t(size);
    PyObject *rest = PyBytes_FromStringAndSize(PyBytes_AS_STRING(sealed) + sent,
                                               PyBytes_GET_SIZE(sealed) - sent);
    if (rest == NULL || done(PyObject_CallMethodOneArg(channel, tls.name._hold_back, rest)) < 0) {
        Py_XDECREF(rest);
        return NULL;
    }
    Py_DECREF(rest);
    return PyLong_FromSsize_t(~size);
}

static PyObject *sink_send(PyObject *self, PyObject *const *args, Py_ssize_t count,
                           PyObject *names) {
    PyObject *channel = TLS_FIELD(self, Sink, _channel), *result = NULL;
    PyObject *lock = TLS_FIELD(channel, Wire, _lock), *records = TLS_FIELD(channel, Wire, _records);
    Py_ssize_t size = count > 0 && PyBytes_CheckExact(args[0]) ? PyBytes_GET_SIZE(args[0]) : 0;
    if (size == 0 || size > LARGE || names != NULL || !Py_IS_TYPE(lock, &Lock_Type) ||
        !Py_IS_TYPE(channel, (PyTypeObject *)tls.its.TLSChannel) ||
        !Py_IS_TYPE(records, (PyTypeObject *)tls.its.PrivateRecords) ||
        !Py_IS_TYPE(TLS_FIELD(channel, Wire, _sock), native.socket_type))
        return call_original(tls.its.sink_send, self, args, count, names);
    if (lock_wait(lock) < 0)
        return NULL;
    if (TLS_FIELD(channel, Wire, _held) != Py_None) {
        lock_release(lock);
        return call_original(tls.its.sink_send, self, args, count, names);
    }
    long taken = ask(tls.its.ssl_write, TLS_FIELD(records, PrivateRecords, _ssl), args[0], size);
    if (taken > 0) {
        PyObject *sealed = encrypted(records, size);
        if (sealed != NULL)
            result = pass_on(channel, sealed, size);
        Py_XDECREF(sealed);
    } else if (!PyErr_Occurred()) {
        PyObject *failure = failure_of(records, taken);
        if (failure != NULL)
            result = PyObject_CallMethodOneArg(self, tls.name._not_sealed, failure);
        Py_XDECREF(failure);
    }
    lock_release(lock);
    return result;
}

/* As `TLSChannel.drained` where no question has to be asked; -1: that must be. */
int tls_drained(PyObject *channel) {
    if (!Py_IS_TYPE(channel, (PyTypeObject *)tls.its.TLSChannel) ||
        TLS_FIELD(channel, Wire, _inside) != Py_False || TLS_FIELD(channel, Wire, _large) != Py_False)
        return -1;
    return is_true(TLS_FIELD(channel, Wire, _kernel_drained));
}

static PyMethodDef tls_twins[] = {
    {"recv", (PyCFunction)(void (*)(void))tls_recv, METH_FASTCALL | METH_KEYWORDS,
     "See `TLSChannel.recv`."},
    {"send", (PyCFunction)(void (*)(void))sink_send, METH_FASTCALL | METH_KEYWORDS,
     "See `_Sink.send`."},
};

/* bind_tls(**things): (the twin of `TLSChannel.recv`, that of `_Sink.send`). */
PyObject *bind_tls(PyObject *Py_UNUSED(module), PyObject *arguments, PyObject *things) {
    if (!PyArg_ParseTuple(arguments, "") || things == NULL)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "bind_tls takes things");
    if (native.missing == NULL || tls.its.bio_write != NULL)
        return PyErr_Format(PyExc_RuntimeError, "bind_tls: the module is taken");
#define FIND_TLS_SLOT(class, slot)                                                             \
    if (find_slot(things, #class, #slot, &tls.at.class##__##slot) < 0)                         \
        return NULL;
    TLS_FIELDS(FIND_TLS_SLOT)
#define KEEP_TLS_THING(thing)                                                                  \
    if ((tls.its.thing = find_thing(things, #thing)) == NULL)                                  \
        return NULL;
    TLS_THINGS(KEEP_TLS_THING)
#define KEEP_TLS_NAME(word)                                                                    \
    if ((tls.name.word = PyUnicode_InternFromString(#word)) == NULL)                           \
        return NULL;
    TLS_NAMES(KEEP_TLS_NAME)
    PyTypeObject *sink = (PyTypeObject *)PyDict_GetItemString(things, "Sink");
    return Py_BuildValue("(NN)", PyDescr_NewMethod((PyTypeObject *)tls.its.TLSChannel, tls_twins),
                         PyDescr_NewMethod(sink, tls_twins + 1));
}
