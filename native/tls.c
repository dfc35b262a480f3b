/* The twins of `TLSChannel.recv` and `_Sink.send`: of one record that came whole, and of what
   goes out in one go. They call the functions of OpenSSL that `PrivateRecords` calls, but by
   their addresses. Through pyOpenSSL each of them lets go of the GIL, which with 16 KiB takes
   as long as the encryption, and where several threads send, the switches took more than all
   encryption: for 64 MiB 20,000 of them. Here a small record, which is done in a microsecond or
   two, keeps the GIL, and large ones let go of it once, the send(2) included. */

#include "native.h"

#include <errno.h>
#include <sys/socket.h>

#define TLS_FIELDS(X)                                                                          \
    X(Wire, _aligned) X(Wire, _held) X(Wire, _inside) X(Wire, _kernel_drained) X(Wire, _large) \
    X(Wire, _lock) X(Wire, _owed) X(Wire, _records) X(Wire, _sock) X(Wire, _source)            \
    X(Wire, recv_wants) X(TLSChannel, _reads_ended) X(PrivateRecords, _places) X(Sink, _channel)
#define TLS_THINGS(X)                                                                          \
    X(Wire) X(TLSChannel) X(PrivateRecords) X(Sink) X(recv) X(sink_send) X(READ)
#define TLS_NAMES(X) X(_broke_off) X(_cut_short) X(_hold_back) X(_not_sealed) X(get)

/* A function of OpenSSL's: of an SSL or a BIO, these bytes, so many; how many it took or gave. */
typedef int (*OpenSSL)(void *of, void *bytes, int size);
#define FUNCTIONS(X) X(ssl_read) X(ssl_write) X(bio_read) X(bio_write)
#define DECLARE_FUNCTION(name) OpenSSL name;

static struct {
    struct { TLS_FIELDS(DECLARE_FIELD) } at;
    struct { TLS_THINGS(DECLARE_OBJECT) } its;
    struct { TLS_NAMES(DECLARE_OBJECT) } name;
    FUNCTIONS(DECLARE_FUNCTION)
} tls;

/* As `SLOT` and the others in native.h. */
#define TLS_SLOT(object, class, slot)                                                          \
    place_of_slot(object, tls.its.class, tls.at.class##__##slot)
#define TLS_GET(object, class, slot) in_slot(object, *TLS_SLOT(object, class, slot), #slot)
#define TLS_HOLD(object, class, slot) Py_XNewRef(TLS_GET(object, class, slot))
#define TLS_IS(object, class, slot, value) (*TLS_SLOT(object, class, slot) == (value))

/* What encryption adds to a small record, and more. */
enum { ADDED = 256 };

/* Where OpenSSL's objects of a connection are; `known` keeps them there. */
typedef struct { void *ssl, *in, *out; PyObject *known; } Places;

/* With the lock: whether there are any; not before the handshake is over. */
static bool find_places(PyObject *channel, Places *places) {
    PyObject *records = *TLS_SLOT(channel, Wire, _records);
    if (records == NULL || !is_exactly(records, tls.its.PrivateRecords))
        return false;
    PyObject *known = *TLS_SLOT(records, PrivateRecords, _places);
    if (known == NULL || !PyTuple_CheckExact(known) || PyTuple_GET_SIZE(known) != 4)
        return false;
    for (Py_ssize_t which = 0; which < 3; which++)
        if (!PyLong_CheckExact(PyTuple_GET_ITEM(known, which)))
            return false;
    places->ssl = PyLong_AsVoidPtr(PyTuple_GET_ITEM(known, 0));
    places->in = PyLong_AsVoidPtr(PyTuple_GET_ITEM(known, 1));
    places->out = PyLong_AsVoidPtr(PyTuple_GET_ITEM(known, 2));
    PyErr_Clear(); /* a number that is no address */
    if (places->ssl == NULL || places->in == NULL || places->out == NULL)
        return false;
    places->known = Py_NewRef(known);
    return true;
}

/* With the lock, with an error set: the channel is told of it if it is the system's, or if there
   was no memory for a record, of which a part is lost. */
static void broke_off(PyObject *channel) {
    bool lost = PyErr_ExceptionMatches(PyExc_MemoryError);
    if (!lost && !PyErr_ExceptionMatches(PyExc_OSError))
        return;
    PyObject *kind, *error, *traceback;
    PyErr_Fetch(&kind, &error, &traceback);
    PyErr_NormalizeException(&kind, &error, &traceback);
    if (done(lost ? PyObject_CallMethodNoArgs(channel, tls.name._cut_short)
                  : PyObject_CallMethodOneArg(channel, tls.name._broke_off, error)) < 0)
        PyErr_Clear(); /* what is told of is worse */
    PyErr_Restore(kind, error, traceback);
}

static void set_flag(PyObject **field, bool flag) { set(field, flag ? Py_True : Py_False); }

/* With the lock: as `_fetch`, of bytes; `None`: nothing has come. */
static PyObject *fetch(PyObject *self) {
    int fd;
    if (descriptor(TLS_GET(self, Wire, _source), &fd) < 0)
        return NULL;
    PyObject *data = receive_from(fd, LARGEST, MSG_DONTWAIT);
    if (data == NULL)
        return NULL;
    if (data == Py_None) {
        set(TLS_SLOT(self, Wire, _kernel_drained), Py_True);
        set(TLS_SLOT(self, Wire, recv_wants), tls.its.READ);
        return data;
    }
    const unsigned char *bytes = (const unsigned char *)PyBytes_AS_STRING(data);
    Py_ssize_t size = PyBytes_GET_SIZE(data);
    bool whole = size > 5 && size == (bytes[3] << 8 | bytes[4]) + 5;
    if (size > LARGE)
        set(TLS_SLOT(self, Wire, _large), Py_True);
    set_flag(TLS_SLOT(self, Wire, _kernel_drained), size < LARGEST);
    set_flag(TLS_SLOT(self, Wire, _aligned), TLS_IS(self, Wire, _aligned, Py_True) && whole);
    set_flag(TLS_SLOT(self, Wire, _inside), size > 0);
    return data;
}

/* With the lock: what `length` bytes at most of what was fetched are, decrypted. */
static PyObject *decrypt(PyObject *self, const Places *places, PyObject *fetched,
                         Py_ssize_t length) {
    Py_ssize_t size = PyBytes_GET_SIZE(fetched);
    /* A whole record takes more than what is in it. */
    Py_ssize_t most = TLS_IS(self, Wire, _aligned, Py_True) && size < RECORD ? size : RECORD;
    PyObject *data = PyBytes_FromStringAndSize(NULL, most < length ? most : length);
    if (data == NULL)
        return NULL;
    PyThreadState *here = size > LARGE ? PyEval_SaveThread() : NULL;
    int count = 0, taken = tls.bio_write(places->in, PyBytes_AS_STRING(fetched), (int)size);
    if (taken == size)
        count = tls.ssl_read(places->ssl, PyBytes_AS_STRING(data), (int)PyBytes_GET_SIZE(data));
    take_after_short_call(here);
    if (taken != size) {
        Py_DECREF(data);
        return PyErr_NoMemory();
    }
    if (count > 0) {
        if (_PyBytes_Resize(&data, count) == 0 && TLS_IS(self, Wire, _aligned, Py_True) &&
            count < length)
            set(TLS_SLOT(self, Wire, _inside), Py_False);
        return data;
    }
    Py_DECREF(data);
    return PyObject_CallMethod(self, "_read", "ni", length, count);
}

/* With the lock: of a channel that has nothing to see to first. */
static PyObject *receive_record(PyObject *self, const Places *places, Py_ssize_t length) {
    PyObject *fetched = fetch(self), *data;
    if (fetched == NULL || fetched == Py_None)
        return fetched;
    if (PyBytes_GET_SIZE(fetched) == 0)
        data = PyObject_CallMethodNoArgs(self, tls.name._cut_short);
    else
        data = decrypt(self, places, fetched, length);
    Py_DECREF(fetched);
    return data;
}

/* With the lock: whether the common case it is. What is unset is not. */
static bool one_record_may_come(PyObject *self, Places *places) {
    PyObject *source = *TLS_SLOT(self, Wire, _source);
    return source != NULL && Py_IS_TYPE(source, native.socket_type) &&
           TLS_IS(self, TLSChannel, _reads_ended, Py_False) &&
           TLS_IS(self, Wire, _owed, Py_False) && TLS_IS(self, Wire, _inside, Py_False) &&
           find_places(self, places);
}

static PyObject *tls_recv(PyObject *self, PyObject *const *args, Py_ssize_t count,
                          PyObject *names) {
    Py_ssize_t length = 0;
    if (count > 0 && names == NULL && PyLong_CheckExact(args[0])) {
        length = PyLong_AsSsize_t(args[0]);
        if (length == -1)
            PyErr_Clear();
    }
    PyObject *lock = *TLS_SLOT(self, Wire, _lock);
    if (length <= 0 || lock == NULL || !Py_IS_TYPE(lock, &RLock_Type))
        return call_original(tls.its.recv, self, args, count, names);
    Places places;
    PyObject *data = NULL;
    Py_INCREF(lock);
    lock_wait(lock);
    bool common = one_record_may_come(self, &places);
    if (common) {
        data = receive_record(self, &places, length);
        Py_DECREF(places.known);
        if (data == NULL)
            broke_off(self);
    }
    lock_release(lock);
    Py_DECREF(lock);
    return common ? data : call_original(tls.its.recv, self, args, count, names);
}

/* With the lock: what was sealed of `size` bytes of the caller's, and `sent` of it. */
static PyObject *passed_on(PyObject *channel, const char *sealed, Py_ssize_t total,
                           Py_ssize_t sent, Py_ssize_t size) {
    if (sent == total)
        return PyLong_FromSsize_t(size);
    PyObject *rest = PyBytes_FromStringAndSize(sealed + sent, total - sent);
    int failed = rest == NULL ? -1
                              : done(PyObject_CallMethodOneArg(channel, tls.name._hold_back, rest));
    Py_XDECREF(rest);
    return failed < 0 ? NULL : PyLong_FromSsize_t(~size);
}

/* With the lock: after a failure of OpenSSL's, of a send of which so many bytes went well. */
static PyObject *not_sealed(PyObject *self, PyObject *records, int count, Py_ssize_t before) {
    PyObject *failure = PyObject_CallMethod(records, "_failure", "in", count, before);
    PyObject *result =
        failure == NULL ? NULL : PyObject_CallMethodOneArg(self, tls.name._not_sealed, failure);
    Py_XDECREF(failure);
    return result;
}

/* With the lock: how many of `size` bytes may be encrypted now, as `_surely_fits`. */
static Py_ssize_t surely_fits(int fd, Py_ssize_t size) {
    enum { SENDING = 2, ROOM = 3, QUEUED = 5, ALL = 9 };
    uint32_t found[ALL];
    socklen_t length = sizeof found;
    if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, found, &length) < 0 || length < sizeof found)
        return RECORD;
    int64_t taken = found[SENDING] > found[QUEUED] ? found[SENDING] : found[QUEUED];
    int64_t records = ((int64_t)found[ROOM] - taken) / (2 * RECORD);
    records = records < 1 ? 1 : records > BATCH ? BATCH : records;
    return size < records * RECORD ? size : (Py_ssize_t)records * RECORD;
}

/* With the lock: more than one buffer of what OpenSSL has to say is held, and flushed next. */
static PyObject *held_back(PyObject *channel, PyObject *records, const char *sealed,
                           Py_ssize_t total, Py_ssize_t size) {
    PyObject *held = passed_on(channel, sealed, total, 0, size);
    PyObject *rest = held == NULL ? NULL : PyObject_CallMethodNoArgs(records, tls.name.get);
    if (rest == NULL || done(PyObject_CallMethodOneArg(channel, tls.name._hold_back, rest)) < 0)
        Py_CLEAR(held);
    Py_XDECREF(rest);
    return held;
}

/* With the lock: encrypts and sends `size` bytes, several records perhaps. */
static PyObject *seal_and_send(PyObject *self, PyObject *channel, PyObject *records,
                               const Places *places, int fd, char *bytes, Py_ssize_t size) {
    Py_ssize_t room = size > LARGE ? BATCH * LARGEST : LARGE + ADDED, begun = 0, sent = 0;
    char few[LARGE + ADDED], *sealed = size > LARGE ? large_room(room) : few;
    if (sealed == NULL)
        return NULL;
    int count = 1, total = 0, error = 0;
    PyThreadState *here = size > LARGE ? PyEval_SaveThread() : NULL;
    while (begun < size && count > 0) {
        Py_ssize_t left = size - begun;
        count = tls.ssl_write(places->ssl, bytes + begun, (int)(left < RECORD ? left : RECORD));
        begun += count > 0 ? count : 0;
    }
    if (count > 0) {
        total = tls.bio_read(places->out, sealed, (int)room);
        if (here == NULL && total < room)
            here = let_go_unless_dear();
        if (total > 0 && total < room) {
            sent = send(fd, sealed, total, MSG_DONTWAIT | MSG_NOSIGNAL);
            error = sent < 0 ? errno : 0;
        }
    }
    take_after_short_call(here);
    if (count <= 0)
        return not_sealed(self, records, count, begun);
    if (error == EAGAIN || error == EWOULDBLOCK) {
        sent = 0;
    } else if (error != 0) {
        errno = error;
        return PyErr_SetFromErrno(PyExc_OSError);
    }
    assert(total > 0); /* SSL_write(3) puts out at once what it takes */
    if (total < room)
        return passed_on(channel, sealed, total, sent, size);
    return held_back(channel, records, sealed, total, size);
}

/* With the lock: as `_Sink.send`, of bytes. `*common`: it was done here, or failed. */
static PyObject *send_records(PyObject *self, PyObject *channel, Py_buffer *view, bool *common) {
    Places places;
    PyObject *sock = *TLS_SLOT(channel, Wire, _sock), *result = NULL;
    if (sock == NULL || !Py_IS_TYPE(sock, native.socket_type) ||
        !TLS_IS(channel, Wire, _held, Py_None) || !find_places(channel, &places))
        return NULL;
    *common = true;
    int fd;
    if (descriptor(sock, &fd) == 0) {
        PyObject *records = Py_NewRef(*TLS_SLOT(channel, Wire, _records));
        Py_ssize_t size = view->len;
        if (size > LARGE)
            set(TLS_SLOT(channel, Wire, _large), Py_True);
        if (size > RECORD)
            size = surely_fits(fd, size);
        result = seal_and_send(self, channel, records, &places, fd, view->buf, size);
        Py_DECREF(records);
    }
    if (result == NULL)
        broke_off(channel);
    Py_DECREF(places.known);
    return result;
}

static PyObject *sink_send(PyObject *self, PyObject *const *args, Py_ssize_t count,
                           PyObject *names) {
    PyObject *channel = *TLS_SLOT(self, Sink, _channel), *lock = NULL, *result = NULL;
    bool common = count > 0 && names == NULL && channel != NULL &&
                  is_exactly(channel, tls.its.TLSChannel) &&
                  (PyBytes_CheckExact(args[0]) || PyMemoryView_Check(args[0]));
    if (common)
        lock = *TLS_SLOT(channel, Wire, _lock);
    Py_buffer view = {.obj = NULL};
    if (lock == NULL || !Py_IS_TYPE(lock, &RLock_Type))
        return call_original(tls.its.sink_send, self, args, count, names);
    Py_INCREF(channel);
    Py_INCREF(lock);
    if (PyObject_GetBuffer(args[0], &view, PyBUF_SIMPLE) < 0)
        PyErr_Clear();
    common = false;
    if (view.obj != NULL && view.len > 0) {
        lock_wait(lock);
        result = send_records(self, channel, &view, &common);
        lock_release(lock);
    }
    if (view.obj != NULL)
        PyBuffer_Release(&view);
    Py_DECREF(lock);
    Py_DECREF(channel);
    return common ? result : call_original(tls.its.sink_send, self, args, count, names);
}

/* As `TLSChannel.drained` where no question has to be asked; -1: that must be. */
int tls_drained(PyObject *channel) {
    if (tls.bio_write == NULL || !is_exactly(channel, tls.its.TLSChannel) ||
        !TLS_IS(channel, Wire, _inside, Py_False) || !TLS_IS(channel, Wire, _large, Py_False))
        return -1;
    PyObject *drained = *TLS_SLOT(channel, Wire, _kernel_drained);
    return drained == Py_True ? 1 : drained == Py_False ? 0 : -1;
}

static PyMethodDef tls_twins[] = {
    {"recv", (PyCFunction)(void (*)(void))tls_recv, METH_FASTCALL | METH_KEYWORDS,
     "See `TLSChannel.recv`."},
    {"send", (PyCFunction)(void (*)(void))sink_send, METH_FASTCALL | METH_KEYWORDS,
     "See `_Sink.send`."},
};

/* Lets go of what a `bind_tls` that failed had taken. */
static PyObject *not_bound(void) {
#define DROP_TLS_THING(thing) Py_CLEAR(tls.its.thing);
    TLS_THINGS(DROP_TLS_THING)
#define DROP_TLS_NAME(word) Py_CLEAR(tls.name.word);
    TLS_NAMES(DROP_TLS_NAME)
#define DROP_FUNCTION(function) tls.function = NULL;
    FUNCTIONS(DROP_FUNCTION)
    return NULL;
}

/* bind_tls(**things): (the twin of `TLSChannel.recv`, that of `_Sink.send`). */
PyObject *bind_tls(PyObject *Py_UNUSED(module), PyObject *arguments, PyObject *things) {
    if (!PyArg_ParseTuple(arguments, "") || things == NULL)
        return PyErr_Occurred() ? NULL : PyErr_Format(PyExc_TypeError, "bind_tls takes things");
    if (native.missing == NULL || tls.bio_write != NULL)
        return PyErr_Format(PyExc_RuntimeError, "bind_tls: the module is taken");
#define FIND_TLS_SLOT(class, slot)                                                             \
    if (find_slot(things, #class, #slot, &tls.at.class##__##slot) < 0)                         \
        return NULL;
    TLS_FIELDS(FIND_TLS_SLOT)
#define KEEP_TLS_THING(thing)                                                                  \
    if ((tls.its.thing = find_thing(things, #thing)) == NULL)                                  \
        return not_bound();
    TLS_THINGS(KEEP_TLS_THING)
#define KEEP_TLS_NAME(word)                                                                    \
    if ((tls.name.word = PyUnicode_InternFromString(#word)) == NULL)                           \
        return not_bound();
    TLS_NAMES(KEEP_TLS_NAME)
#define KEEP_FUNCTION(function)                                                                \
    PyObject *at_##function = find_thing(things, #function);                                   \
    if (at_##function == NULL)                                                                 \
        return not_bound();                                                                    \
    tls.function = (OpenSSL)PyLong_AsVoidPtr(at_##function);                                   \
    Py_DECREF(at_##function);                                                                  \
    if (tls.function == NULL) {                                                                \
        if (!PyErr_Occurred())                                                                 \
            PyErr_Format(PyExc_TypeError, "bind_tls: %s is nowhere", #function);               \
        return not_bound();                                                                    \
    }
    FUNCTIONS(KEEP_FUNCTION)
    PyTypeObject *channel = (PyTypeObject *)tls.its.TLSChannel;
    PyTypeObject *sink = (PyTypeObject *)tls.its.Sink;
    PyObject *both = NULL;
    if (PyType_IsSubtype(channel, (PyTypeObject *)tls.its.Wire))
        both = Py_BuildValue("(NN)", PyDescr_NewMethod(channel, tls_twins),
                             PyDescr_NewMethod(sink, tls_twins + 1));
    else
        PyErr_Format(PyExc_TypeError, "bind_tls: TLSChannel is no Wire");
    return both == NULL ? not_bound() : both;
}
