/* loadgen: an HTTP/1.1 load generator that costs less than the servers it loads.
 *
 * One thread, epoll, keep-alive. Every response must have the expected status and a Content-Length that it meets.
 * Body bytes are thrown away in the kernel (recv with MSG_TRUNC, tcp(7)). The CPU time of the
 * server's processes is read from /proc at both ends of the measured window, so that it belongs to the same bytes.
 * -b and -B add streams, which are counted apart. -r sends requests at a steady rate, whatever the answers take; their
 * latency counts from when they were due. -e leaves each response after so many body bytes, and connects again.
 * Prints one JSON object; any wrong response ends the run with status 1 and a line on stderr.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

enum {
    HEAD_BYTES = 16384, LEAVING_BYTES = 262144, DISCARD_BYTES = 8 << 20, STREAM_BYTES = 1 << 20, MAX_PIDS = 64,
    EVENTS = 256, MAX_STREAM_PATHS = 64
};

/* What containerd asks with. */
#define FIELDS "User-Agent: containerd/2.1\r\nAccept: application/vnd.oci.image.manifest.v1+json, " \
               "application/vnd.oci.image.index.v1+json, */*\r\nAccept-Encoding: identity\r\n"

struct conn {
    int fd, stream;
    struct conn *next;    /* the next one that waits for its turn to ask */
    double began;         /* when the request was sent */
    long long left;       /* body bytes still to come; -1 while the head is read */
    long long received;   /* bytes of this response, head included */
    size_t head_used;
    char head[HEAD_BYTES + 1];
};

static struct {
    struct sockaddr_in address;
    const char *method;
    char **paths;
    int path_count, next_path;
    char *stream_paths[MAX_STREAM_PATHS];
    int connections, streams, stream_path_count, next_stream_path, status;
    long long length, requests;   /* -1: any; 0: until the time is over */
    long long leave_after;        /* body bytes; 0: responses are read to their end */
    double rate;                  /* requests per second; 0: as fast as answers come */
    double warmup, seconds;
    int pids[MAX_PIDS], pid_count;
} options = {.method = "GET", .connections = 1, .status = 200, .length = -1, .seconds = 3};

static struct {
    double began, own_cpu, server_cpu;
    long long bytes, stream_bytes, requests, reconnects;
    float *latency;       /* microseconds */
    size_t latency_room;
} window;

static struct {
    struct conn *idle;    /* answered, and to ask again when it is time */
    double due, step;     /* when the next request is due, seconds */
    int timer;
} pace;

static void die(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("loadgen: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    return clock_gettime(CLOCK_MONOTONIC, &t) == 0 ? t.tv_sec + t.tv_nsec * 1e-9 : 0;
}

static double own_cpu(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return u.ru_utime.tv_sec + u.ru_stime.tv_sec + (u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* utime + stime of all threads of the server's processes, proc_pid_stat(5) fields 14 and 15. */
static double server_cpu(void)
{
    double ticks = 0;
    for (int i = 0; i < options.pid_count; i++) {
        char name[64], text[1024];
        unsigned long user, kernel;
        snprintf(name, sizeof name, "/proc/%d/stat", options.pids[i]);
        FILE *file = fopen(name, "r");
        if (file == NULL)
            die("server process %d is gone", options.pids[i]);
        size_t n = fread(text, 1, sizeof text - 1, file);
        fclose(file);
        text[n] = 0;
        char *after_name = strrchr(text, ')');
        if (after_name == NULL ||
            sscanf(after_name + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &kernel) != 2)
            die("cannot read %s", name);
        ticks += user + kernel;
    }
    return ticks / sysconf(_SC_CLK_TCK);
}

static void open_window(double at)
{
    window.began = at;
    window.bytes = window.stream_bytes = window.requests = window.reconnects = 0;
    window.own_cpu = own_cpu(), window.server_cpu = server_cpu();
}

static void note_latency(double seconds)
{
    if ((size_t)window.requests == window.latency_room) {
        window.latency_room = window.latency_room ? 2 * window.latency_room : 65536;
        window.latency = realloc(window.latency, window.latency_room * sizeof(float));
        if (window.latency == NULL)
            die("out of memory");
    }
    window.latency[window.requests++] = (float)(seconds * 1e6);
}

static void send_request(struct conn *c)
{
    char text[4096];
    const char *path = c->stream ? options.stream_paths[options.next_stream_path++ % options.stream_path_count]
                                 : options.paths[options.next_path++ % options.path_count];
    int n = snprintf(text, sizeof text, "%s %s HTTP/1.1\r\nHost: bench.local\r\n" FIELDS "\r\n",
                     c->stream ? "GET" : options.method, path);
    if (n >= (int)sizeof text)
        die("request is too long");
    c->head_used = 0;
    c->received = 0;
    c->left = -1;
    c->began = now();
    if (send(c->fd, text, n, MSG_NOSIGNAL) != n)
        die("send: %s", strerror(errno));
}

static void connect_to_server(struct conn *c, int epoll)
{
    int one = 1;
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0 || connect(c->fd, (struct sockaddr *)&options.address, sizeof options.address) < 0)
        die("connect: %s", strerror(errno));
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one), fcntl(c->fd, F_SETFL, O_NONBLOCK);
    epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event);
    if (options.rate == 0 || c->stream) {
        send_request(c);
        return;
    }
    c->left = 0;
    c->next = pace.idle;
    pace.idle = c;
}

static void start_pace(int epoll)
{
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
    long step = (long)(1e9 / options.rate);
    struct timespec every = {step / 1000000000, step % 1000000000};
    struct itimerspec timer = {every, every};
    pace.timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    pace.step = step * 1e-9;
    pace.due = now() + pace.step;
    if (timerfd_settime(pace.timer, 0, &timer, NULL) < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, pace.timer, &event) < 0)
        die("timerfd: %s", strerror(errno));
}

/* What finds every connection busy stays due, and its latency counts from then. */
static void send_due(void)
{
    double at = now();
    while (pace.idle != NULL && pace.due <= at) {
        struct conn *c = pace.idle;
        pace.idle = c->next;
        send_request(c);
        c->began = pace.due;
        pace.due += pace.step;
    }
}

/* The value of a header field, or NULL. `head` ends with NUL. */
static const char *field(const char *head, const char *name)
{
    size_t length = strlen(name);
    for (const char *line = strstr(head, "\r\n"); line != NULL; line = strstr(line, "\r\n")) {
        line += 2;
        if (strncasecmp(line, name, length) == 0 && line[length] == ':')
            return line + length + 1 + strspn(line + length + 1, " \t");
    }
    return NULL;
}

static void parse_head(struct conn *c, char *end)
{
    int status = 0;
    *end = 0;
    if (sscanf(c->head, "HTTP/1.1 %d", &status) != 1 || status != options.status)
        die("expected status %d, got: %.60s", options.status, c->head);
    const char *value = field(c->head, "content-length");
    if (value == NULL)
        die("response without Content-Length");
    c->left = atoll(value);
    if (options.length >= 0 && !c->stream && c->left != options.length)
        die("expected Content-Length %lld, got %lld", options.length, c->left);
    if (!c->stream && strcmp(options.method, "HEAD") == 0)
        c->left = 0;
    long long body = (long long)c->head_used - (end + 4 - c->head);
    if (body > c->left)
        die("%lld bytes more than Content-Length says", body - c->left);
    c->left -= body;
    *(c->stream ? &window.stream_bytes : &window.bytes) += body;
}

/* One recv. Returns 1 when the response is complete. */
static int receive(struct conn *c, int epoll)
{
    ssize_t n;
    long long room = options.leave_after > 0 ? LEAVING_BYTES : c->stream ? STREAM_BYTES : DISCARD_BYTES;
    if (c->left < 0)
        n = recv(c->fd, c->head + c->head_used, HEAD_BYTES - c->head_used, 0);
    else
        n = recv(c->fd, NULL, c->left < room ? c->left : room, MSG_TRUNC);
    if (n < 0) {
        if (errno != EAGAIN)
            die("recv: %s", strerror(errno));
        return 0;
    }
    if (n == 0) {
        if (c->received > 0)
            die("connection ended %lld bytes short", c->left);
        close(c->fd);   /* the server ended an idle connection: open another */
        window.reconnects++;
        connect_to_server(c, epoll);
        return 0;
    }
    c->received += n;
    if (c->left >= 0) {
        c->left -= n;
        *(c->stream ? &window.stream_bytes : &window.bytes) += n;
        return c->left == 0 || (options.leave_after > 0 && c->received >= options.leave_after);
    }
    c->head_used += n;
    c->head[c->head_used] = 0;
    char *end = strstr(c->head, "\r\n\r\n");
    if (end != NULL)
        parse_head(c, end);
    else if (c->head_used == HEAD_BYTES)
        die("response head is longer than %d bytes", HEAD_BYTES);
    return c->left == 0;
}

static int by_value(const void *a, const void *b)
{
    return (*(const float *)a > *(const float *)b) - (*(const float *)a < *(const float *)b);
}

static void report(double at)
{
    double own = own_cpu() - window.own_cpu, server = server_cpu() - window.server_cpu;
    size_t n = window.requests;
    qsort(window.latency, n, sizeof(float), by_value);
    printf("{\"seconds\": %.6f, \"bytes\": %lld, \"stream_bytes\": %lld, \"requests\": %zu, \"reconnects\": %lld, "
           "\"own_cpu_seconds\": %.6f, \"server_cpu_seconds\": %.6f", at - window.began, window.bytes,
           window.stream_bytes, n, window.reconnects, own, server);
    if (n > 0)
        printf(", \"latency_us\": {\"p50\": %.1f, \"p99\": %.1f, \"max\": %.1f}", window.latency[n / 2],
               window.latency[n * 99 / 100], window.latency[n - 1]);
    puts("}");
}

/* A response has been read, or left: count it and ask again. Returns 1 when it was the last one wanted. */
static int answered(struct conn *c, int epoll)
{
    if (c->stream) {
        send_request(c);
        return 0;
    }
    note_latency(now() - c->began);
    if (options.requests && window.requests >= options.requests)
        return 1;
    if (options.leave_after > 0) {
        close(c->fd);   /* with bytes in its buffer: the server sees a reset */
        connect_to_server(c, epoll);
    } else if (options.rate > 0) {
        c->next = pace.idle;
        pace.idle = c;
    } else {
        send_request(c);
    }
    return 0;
}

static void run(void)
{
    struct epoll_event events[EVENTS];
    int epoll = epoll_create1(EPOLL_CLOEXEC), measuring, all = options.connections + options.streams;
    struct conn *conns = calloc(all, sizeof *conns);
    unsigned long long ticks;
    if (epoll < 0 || conns == NULL)
        die("cannot start: %s", strerror(errno));
    double began = now(), opens = began + options.warmup, ends = opens + options.seconds;
    open_window(began);
    measuring = options.warmup == 0;
    for (int i = 0; i < all; i++) {
        conns[i].stream = i >= options.connections;
        connect_to_server(&conns[i], epoll);
    }
    if (options.rate > 0)
        start_pace(epoll);
    for (;;) {
        double at = now();
        if (!measuring && at >= opens) {
            measuring = 1;
            open_window(at);
        }
        double deadline = measuring ? ends : opens;
        if (at >= ends) {
            if (options.requests)
                die("%lld of %lld requests in %.1f s", window.requests, options.requests, options.seconds);
            break;
        }
        int n = epoll_wait(epoll, events, EVENTS, (int)((deadline - at) * 1000) + 1);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (c == NULL) {
                (void)!read(pace.timer, &ticks, sizeof ticks);
            } else if (receive(c, epoll) && answered(c, epoll)) {
                report(now());
                return;
            }
            if (options.rate > 0)
                send_due();
        }
    }
    report(now());
}

static void parse_pids(char *list)
{
    for (char *pid = strtok(list, ","); pid != NULL; pid = strtok(NULL, ",")) {
        if (options.pid_count == MAX_PIDS)
            die("more than %d server processes", MAX_PIDS);
        options.pids[options.pid_count++] = atoi(pid);
    }
}

int main(int argc, char **argv)
{
    int letter;
    while ((letter = getopt(argc, argv, "c:d:w:n:s:l:p:m:b:B:e:r:")) != -1) {
        switch (letter) {
        case 'c': options.connections = atoi(optarg); break;
        case 'd': options.seconds = atof(optarg); break;
        case 'w': options.warmup = atof(optarg); break;
        case 'n': options.requests = atoll(optarg); break;
        case 's': options.status = atoi(optarg); break;
        case 'l': options.length = atoll(optarg); break;
        case 'p': parse_pids(optarg); break;
        case 'm': options.method = optarg; break;
        case 'b': options.streams = atoi(optarg); break;
        case 'B': options.stream_paths[options.stream_path_count++ % MAX_STREAM_PATHS] = optarg; break;
        case 'e': options.leave_after = atoll(optarg); break;
        case 'r': options.rate = atof(optarg); break;
        default: return 2;
        }
    }
    if (argc - optind < 3 || options.connections < 1 || (options.streams && !options.stream_path_count) ||
        options.stream_path_count > MAX_STREAM_PATHS) {
        fprintf(stderr, "usage: %s [-c connections] [-d seconds] [-w warm-up seconds] [-n requests] [-s status]\n"
                "       [-l Content-Length] [-p server pids] [-m method] [-r requests a second]\n"
                "       [-b streams -B path of theirs] [-e bytes before leaving] ADDRESS PORT PATH...\n", argv[0]);
        return 2;
    }
    options.address.sin_family = AF_INET;
    options.address.sin_port = htons(atoi(argv[optind + 1]));
    if (inet_pton(AF_INET, argv[optind], &options.address.sin_addr) != 1)
        die("not an IPv4 address: %s", argv[optind]);
    options.paths = argv + optind + 2, options.path_count = argc - optind - 2;
    run();
    return 0;
}
