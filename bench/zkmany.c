/* zkmany: many sessions that do nothing, or that all watch one znode.
 *
 *   cc -O2 -o zkmany zkmany.c
 *   zkmany -s 127.0.0.1:2181 -n 10000 -p /watched
 *
 * -s host:port   the server            -n N   sessions, each on a connection of its own (default 10000)
 * -p P           the znode that is watched, created if it is not there (default /watched)
 *
 * Opens the sessions, at most 32 at a time (a listen queue may be short), prints {"sessions":N,"seconds":S}, and keeps
 * them alive with pings. Then it does what standard input says, a word a line, and answers each with one line:
 *
 *   watch    every session reads the znode and leaves a watch on it; {"watches":N,"seconds":S}
 *   change   one more session sets the znode's data; ends when every watcher got its event:
 *            {"events":N,"reply_ms":R,"first_ms":F,"median_ms":M,"last_ms":L}, since the request was sent
 *
 * At the end of standard input it ends, and leaves the sessions to the server. One thread, epoll.
 */
#define _GNU_SOURCE
#define PROGRAM "zkmany"
#include "zkframe.h"
#include <fcntl.h>
#include <sys/epoll.h>
#include <sys/resource.h>

enum { AT_ONCE = 32, TIMEOUT_MS = 40000 };
enum { CLOSED, DIALLING, GREETING, IDLE };

/* One cache line and a half: 10,000 of them must not cost the processor's cache much while a change is measured. */
typedef struct {
    int fd, state;
    uint64_t last_sent;
    uint16_t have;
    uint8_t in[320];
} Session;

static Session *sessions;
static int count = 10000, poller, ping_ms = TIMEOUT_MS / 3;
static struct sockaddr_in server;
static const char *path = "/watched";
static int opened, answered, events;
static uint64_t *event_times, reply_time;

static void send_small(int fd, const Frame *f) {
    errno = 0;
    /* some 60 bytes into a buffer that is empty */
    if (send(fd, f->data, f->length, MSG_NOSIGNAL) != (ssize_t)f->length) fail("send");
}

static void start(Session *s) {
    int on = 1;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (s->fd < 0) fail("socket");
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(s->fd, (struct sockaddr *)&server, sizeof server) < 0 && errno != EINPROGRESS) fail("connect");
    s->state = DIALLING;
    struct epoll_event event = {.events = EPOLLOUT, .data.ptr = s};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, s->fd, &event)) fail("epoll_ctl");
}

static void greet(Session *s) {
    int error = 0;
    socklen_t size = sizeof error;
    if (getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size) || error) { errno = error; fail("connect"); }
    Frame f;
    make_connect(&f, TIMEOUT_MS);
    send_small(s->fd, &f);
    s->state = GREETING;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};
    epoll_ctl(poller, EPOLL_CTL_MOD, s->fd, &event);
}

static void take(Session *s, const uint8_t *p, size_t n) {
    errno = 0;
    if (s->state == GREETING) {
        if (n < 36 || get32(p + 4) <= 0) fail("no session was given");
        if (get32(p + 4) / 3 < ping_ms) ping_ms = get32(p + 4) / 3;
        s->state = IDLE;
        s->last_sent = now();
        opened++;
        return;
    }
    if (n < REPLY_HEADER) fail("the answer is too short");
    int32_t xid = get32(p);
    if (xid == XID_EVENT) {
        if (events == count) fail("more events than watchers");
        event_times[events++] = now();
    } else if (xid != XID_PING) {
        if (get32(p + 12)) fail("getData was answered with an error");
        answered++;
    }
}

static void readable(Session *s) {
    ssize_t n = recv(s->fd, s->in + s->have, sizeof s->in - s->have, 0);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) { if (n == 0) errno = 0; fail("the server closed a connection"); }
    s->have += (uint16_t)n;
    size_t at = 0;
    while (s->have - at >= LENGTH_BYTES) {
        size_t size = (size_t)get32(s->in + at);
        if (size > sizeof s->in - LENGTH_BYTES) { errno = 0; fail("the answer is too large"); }
        if (s->have - at - LENGTH_BYTES < size) break;
        take(s, s->in + at + LENGTH_BYTES, size);
        at += LENGTH_BYTES + size;
    }
    memmove(s->in, s->in + at, s->have - at);
    s->have -= (uint16_t)at;
}

/* Wait for something at most that long, and deal with it. 1: there is something on standard input. */
static int turn(int milliseconds) {
    struct epoll_event found[512];
    int command = 0, n = epoll_wait(poller, found, 512, milliseconds);
    for (int i = 0; i < n; i++) {
        Session *s = found[i].data.ptr;
        if (!s) command = 1;
        else if (s->state == DIALLING) greet(s);
        else readable(s);
    }
    return command;
}

static void ping_the_quiet(void) {
    static uint64_t looked;
    uint64_t t = now();
    Frame f;
    if (t - looked < 100 * MS) return;
    looked = t;
    make_ping(&f);
    for (int i = 0; i < count; i++) {
        if (sessions[i].state != IDLE || t - sessions[i].last_sent < (uint64_t)ping_ms * MS) continue;
        sessions[i].last_sent = t;
        send_small(sessions[i].fd, &f);
    }
}

/* Until *have is count; at most two minutes. */
static void wait_for(const int *have, const char *what) {
    uint64_t end = now() + 120 * SECOND;
    while (*have < count) {
        turn(100);
        errno = ETIMEDOUT;
        if (now() > end) fail(what);
    }
}

static void watch(void) {
    uint64_t began = now();
    Frame f;
    make_get(&f, 1, path, 1);
    answered = 0;
    for (int i = 0; i < count; i++) {
        send_small(sessions[i].fd, &f);
        sessions[i].last_sent = now();
        if (i % 64 == 63) turn(0);
    }
    wait_for(&answered, "getData");
    printf("{\"watches\":%d,\"seconds\":%.3f}\n", count, (double)(now() - began) / SECOND);
}

static void change(Session *changer) {
    Frame f;
    make_set(&f, 1, path, "y", 1);
    events = answered = 0;
    uint64_t began = now(), end = began + 120 * SECOND;
    send_small(changer->fd, &f);
    changer->last_sent = began;
    for (reply_time = 0; events < count || !answered;) {
        turn(100);
        if (answered && !reply_time) reply_time = now();
        errno = ETIMEDOUT;
        if (now() > end) fail("events");
    }
    /* In the order of arrival: no sorting needed. */
    printf("{\"events\":%d,\"reply_ms\":%.3f,\"first_ms\":%.3f,\"median_ms\":%.3f,\"last_ms\":%.3f}\n", events,
        (double)(reply_time - began) / MS, (double)(event_times[0] - began) / MS,
        (double)(event_times[count / 2] - began) / MS, (double)(event_times[count - 1] - began) / MS);
}

int main(int argc, char **argv) {
    const char *address = "127.0.0.1:2181";
    int option;
    while ((option = getopt(argc, argv, "s:n:p:")) != -1) switch (option) {
        case 's': address = optarg; break;
        case 'n': count = atoi(optarg); break;
        case 'p': path = optarg; break;
        default: return 2;
    }
    errno = EINVAL;
    if (count < 1 || count > 1000000 || strlen(path) > 100) fail("arguments");
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    errno = EMFILE;
    if (limit.rlim_max < (rlim_t)count + 16) fail("the hard limit of open files (ulimit -Hn) is too low");
    server = parse_address(address);
    sessions = calloc((size_t)count + 1, sizeof *sessions);
    event_times = calloc((size_t)count, sizeof *event_times);
    poller = epoll_create1(0);
    if (!sessions || !event_times || poller < 0) fail("memory");

    /* The one that changes the znode; it takes part in the polling like the others, but is none of the watchers. */
    Session *changer = &sessions[count];
    Frame f;
    changer->fd = open_session(&server, TIMEOUT_MS);
    make_create(&f, 1, path, "x", 1);
    send_frame(changer->fd, &f);
    errno = 0;
    if (answer(changer->fd)) fail("create");
    fcntl(changer->fd, F_SETFL, O_NONBLOCK);
    changer->state = IDLE;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = changer};
    epoll_ctl(poller, EPOLL_CTL_ADD, changer->fd, &event);

    uint64_t began = now(), end = began + 180 * SECOND;
    for (int started = 0; opened < count;) {
        while (started < count && started - opened < AT_ONCE) start(&sessions[started++]);
        turn(100);
        ping_the_quiet();
        errno = ETIMEDOUT;
        if (now() > end) fail("sessions");
    }
    printf("{\"sessions\":%d,\"seconds\":%.3f}\n", count, (double)(now() - began) / SECOND);
    fflush(stdout);
    struct epoll_event commands = {.events = EPOLLIN, .data.ptr = NULL};
    fcntl(0, F_SETFL, fcntl(0, F_GETFL) | O_NONBLOCK);
    if (epoll_ctl(poller, EPOLL_CTL_ADD, 0, &commands)) fail("standard input is no pipe");
    for (char line[64];;) {
        if (turn(100)) {
            ssize_t n = read(0, line, sizeof line - 1);
            if (n == 0) return 0;
            if (n < 0) continue;
            line[n] = 0;
            if (!strcmp(line, "watch\n")) watch();
            else if (!strcmp(line, "change\n")) change(changer);
            else { errno = EINVAL; fail("standard input"); }
            fflush(stdout);
        }
        ping_the_quiet();
        if (now() - changer->last_sent > (uint64_t)ping_ms * MS) {
            make_ping(&f);
            send_small(changer->fd, &f);
            changer->last_sent = now();
        }
    }
}
