/* What telling many connections costs a program that does nothing else: the floor under a watch's fan-out.
 *
 *   cc -O2 -o fanout_floor fanout_floor.c && ./fanout_floor 9000
 *
 * One process sends 60 bytes on each of so many loopback connections, one send() each, another reads them by epoll.
 * Prints how long it took until all were sent and until all were read, five times, and the processor time that the
 * sender spent on each. Wants as many descriptors as connections (ulimit -n) in each process.
 */
#define _GNU_SOURCE
#define PROGRAM "fanout_floor"
#include "measure.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ROUNDS = 5, BYTES = 60 };

static double processor_us(void) {
    struct rusage r;
    getrusage(RUSAGE_SELF, &r);
    return (r.ru_utime.tv_sec + r.ru_stime.tv_sec) * 1e6 + r.ru_utime.tv_usec + r.ru_stime.tv_usec;
}
static void read_all(struct sockaddr_in *address, int count, int done) {
    struct epoll_event events[512];
    char buffer[256];
    int poll = epoll_create1(0);
    for (int i = 0; i < count; i++) {
        struct epoll_event event = {.events = EPOLLIN, .data.fd = socket(AF_INET, SOCK_STREAM, 0)};
        if (event.data.fd < 0 || connect(event.data.fd, (void *)address, sizeof *address)) fail("connect");
        epoll_ctl(poll, EPOLL_CTL_ADD, event.data.fd, &event);
    }
    for (int round = 0; round < ROUNDS; round++) {
        for (int got = 0; got < count;) {
            int n = epoll_wait(poll, events, 512, -1);
            for (int i = 0; i < n; i++, got++)
                if (read(events[i].data.fd, buffer, sizeof buffer) != BYTES) fail("read");
        }
        uint64_t at = now();
        if (write(done, &at, sizeof at) != sizeof at) fail("write");
    }
    _exit(0);
}
int main(int argc, char **argv) {
    int count = argc > 1 ? atoi(argv[1]) : 9000, done[2], one = 1;
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t length = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0), *sockets = calloc((size_t)count, sizeof *sockets);
    const char message[BYTES] = {0};
    if (bind(listener, (void *)&address, length) || listen(listener, 4096) || pipe(done)) fail("listen");
    getsockname(listener, (void *)&address, &length);
    if (!fork()) read_all(&address, count, done[1]);
    for (int i = 0; i < count; i++) {
        if ((sockets[i] = accept(listener, NULL, NULL)) < 0) fail("accept");
        setsockopt(sockets[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    }
    sleep(1); /* the reader waits by then */
    double before = processor_us();
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t began = now(), sent, all;
        for (int i = 0; i < count; i++)
            if (send(sockets[i], message, BYTES, MSG_NOSIGNAL | MSG_DONTWAIT) != BYTES) fail("send");
        sent = now();
        if (read(done[0], &all, sizeof all) != sizeof all) fail("the reader");
        printf("%d connections: sent after %.0f ms, read after %.0f ms\n", count, (double)(sent - began) / MS,
            (double)(all - began) / MS);
        usleep(300000);
    }
    printf("%.1f us of the sender's processor for each\n", (processor_us() - before) / ROUNDS / count);
    return 0;
}
