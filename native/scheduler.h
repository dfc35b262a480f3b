/* The base types of what the scheduler, a connection and its stream are made of. The package has
   their Python equals, each beside the class that inherits from it or is it. */

#ifndef THOUSAND_ISLAND_SCHEDULER_H
#define THOUSAND_ISLAND_SCHEDULER_H

#include "types.h"

/* The fields of each. What Python reads often is an object, booleans too: CPython 3.11 to 3.13 know
   a short way to those only, of 15 instructions instead of 220. If one is not `False`, or not
   there, the Python is called, which looks itself. */
#define Task_FIELDS(G, O, F, Z, I, R, B, D, N)                                                 \
    O(alert) O(attached) O(classified) O(fd) O(hung_up) O(machine) O(no_sample) O(reads)       \
    O(timer) O(write_edges) B(wants_write) D(average) D(deadline) D(timer_at) N(ownership) N(place)
/* `ownership`, as in `_scheduler.states`. */
enum { PARKED, OWNED, MARKED };
#define Worker_FIELDS(G, O, F, Z, I, R, B, D, N)                                               \
    O(task) R(parked) B(looking) B(permit) B(waited) N(turn)
#define Deadlines_FIELDS(G, O, F, Z, I, R, B, D, N) R(_clock) R(calls) D(_next)
#define WatchdogTimer_FIELDS(G, O, F, Z, I, R, B, D, N) N(state)
/* `state`, as in `_scheduler.watchdog_timer`. */
enum { SLEEPS, LOOKS, MAY_STOP };
#define RunQueue_FIELDS(G, O, F, Z, I, R, B, D, N)                                             \
    O(_epoll) R(lock) R(_ready) R(_tasks) R(_deadlines) R(_watchdog_timer) N(_alone) N(_batch)     \
    N(_last_found) N(_unlooked) N(sleepers)
#define BlockingEstimate_FIELDS(G, O, F, Z, I, R, B, D, N) B(timed_by_kernel) N(sample_mask)
#define Runner_FIELDS(G, O, F, Z, I, R, B, D, N) R(_queue) R(_estimate)

#define Client_FIELDS(G, O, F, Z, I, R, B, D, N)                                               \
    G(env) G(sock) G(_host) N(_port) D(accepted_at) N(_serial) O(_id) O(_sockname) F(closed)     \
    Z(acceptor_id)
#define Closing_FIELDS(G, O, F, Z, I, R, B, D, N) G(task) G(stream) G(_machine) G(_env)
#define Machine_FIELDS(G, O, F, Z, I, R, B, D, N)                                              \
    G(_task) G(_env) G(_transport) G(callbacks) G(state) F(_eof_told) O(drain) O(handshake)    \
    O(no_room) O(pause) O(short_proves) O(socket) O(source) O(stream)
#define Callbacks_FIELDS(G, O, F, Z, I, R, B, D, N)                                            \
    G(_whose) G(clock) G(context) G(read_timeout) O(receiver) O(frames) I(_left)            \
    I(total_deadline) D(read_deadline)
#define Socket_FIELDS(G, O, F, Z, I, R, B, D, N) G(_stream) G(_reader) G(_writer)
#define TCPChannel_FIELDS(G, O, F, Z, I, R, B, D, N)                                           \
    G(_sock) F(_exposed) F(_limited) I(_receive_timeout)
#define Duplex_FIELDS(G, O, F, Z, I, R, B, D, N)                                               \
    G(connection) G(sock) G(channel) G(state) G(_limit) O(reader) O(writer) Z(waiter)
#define Reader_FIELDS(G, O, F, Z, I, R, B, D, N)                                               \
    G(_stream) G(incoming) O(_receiving) O(buffer) F(framed) Z(bytes_received) Z(recv_count)
#define Writer_FIELDS(G, O, F, Z, I, R, B, D, N)                                               \
    G(_stream) G(_reader) G(_sink) G(_sending) G(outgoing) O(buffer) Z(answered) Z(bytes_sent) \
    Z(send_count)

STRUCT(Task, )
STRUCT(Worker, )
STRUCT(Deadlines, )
STRUCT(WatchdogTimer, )
STRUCT(RunQueue, )
STRUCT(BlockingEstimate, )
STRUCT(Runner, )
STRUCT(Client, )
STRUCT(Closing, )
STRUCT(Machine, )
STRUCT(Callbacks, )
STRUCT(Socket, )
STRUCT(TCPChannel, )
STRUCT(Duplex, )
STRUCT(Reader, )
STRUCT(Writer, )

static inline bool is_quick(Task *task) {
    return task->classified != NULL &&
           (task->classified == native->unknown || task->classified == native->quick);
}

/* Whether `__init__` has been called, by one of the fields that it fills; -1: AttributeError. */
int was_made(PyObject *object, PyObject *filled);

PyObject *queue_look(PyObject *self, PyObject *worker);
PyObject *runner_run_batch(PyObject *self, PyObject *worker);

#endif
