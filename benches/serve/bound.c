/* bound: the least that can serve files over HTTP/1.1 by sendfile, as a bound for what a server can reach.
 *
 * One thread, epoll, keep-alive, no limits, no checks but of the path, files stay open: not a server for anybody.
 * usage: bound ROOT PORT [bytes of a turn of several] [bytes of a turn of one alone] [SO_SNDBUF, 0: the kernel's choice]
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

enum { REQUEST = 8192, FILES = 64, EVENTS = 256, SMALL = 32768 };

struct file {
    char path[512];
    int fd;
    off_t size;
    char *content;        /* of small files */
};

struct conn {
    int fd, sending, waiting;
    size_t used;
    off_t at, end;
    struct file *file;
    char request[REQUEST + 1];
};

static struct file files[FILES];
static int file_count, sending, epoll;
static size_t shared_turn = 2 << 20, lone_turn = 8 << 20;

static void die(const char *what)
{
    perror(what);
    exit(1);
}

static struct file *find(const char *root, const char *path)
{
    struct stat status;
    for (int i = 0; i < file_count; i++)
        if (strcmp(files[i].path, path) == 0)
            return &files[i];
    if (file_count == FILES || strstr(path, "..") || strlen(path) >= sizeof files[0].path)
        return NULL;
    struct file *file = &files[file_count];
    char whole[1024];
    snprintf(whole, sizeof whole, "%s%s", root, path);
    file->fd = open(whole, O_RDONLY | O_CLOEXEC);
    if (file->fd < 0 || fstat(file->fd, &status) < 0 || !S_ISREG(status.st_mode))
        return NULL;
    strcpy(file->path, path);
    file->size = status.st_size;
    if (file->size <= SMALL) {
        file->content = malloc(file->size);
        if (file->content == NULL || pread(file->fd, file->content, file->size, 0) != file->size)
            die("read");
    }
    file_count++;
    return file;
}

static void watch(struct conn *c, int events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (c->waiting != events)
        epoll_ctl(epoll, c->waiting ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->fd, &event);
    c->waiting = events;
}

static void drop(struct conn *c)
{
    sending -= c->sending;
    close(c->fd);
    free(c);
}

/* One turn. Returns 0 when the connection is gone. */
static int turn(struct conn *c)
{
    size_t most = sending > 1 ? shared_turn : lone_turn;
    ssize_t n = sendfile(c->fd, c->file->fd, &c->at, (size_t)(c->end - c->at) < most ? (size_t)(c->end - c->at) : most);
    if (n == 0 || (n < 0 && errno != EAGAIN)) {
        drop(c);
        return 0;
    }
    if (c->at == c->end) {
        c->sending = 0;
        sending--;
    }
    watch(c, c->sending ? EPOLLOUT : EPOLLIN);
    return 1;
}

static int answer(struct conn *c, const char *root)
{
    char head[512], *path = strchr(c->request, ' '), *end = path ? strchr(path + 1, ' ') : NULL;
    int is_head = strncmp(c->request, "HEAD ", 5) == 0;
    struct file *file = NULL;
    if (end != NULL) {
        *end = 0;
        file = find(root, path + 1);
    }
    if (file == NULL) {
        drop(c);
        return 0;
    }
    int n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\nContent-Type: application/octet-stream\r\n"
                     "Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n", (long long)file->size);
    struct iovec parts[2] = {{head, n}, {file->content, is_head ? 0 : (size_t)file->size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = file->content ? 2 : 1};
    c->used = 0;
    sendmsg(c->fd, &message, MSG_NOSIGNAL | (file->content || is_head ? 0 : MSG_MORE));
    if (file->content || is_head)
        return 1;
    c->file = file, c->at = 0, c->end = file->size, c->sending = 1;
    sending++;
    return turn(c);
}

static void readable(struct conn *c, const char *root)
{
    ssize_t n = recv(c->fd, c->request + c->used, REQUEST - c->used, 0);
    if (n <= 0) {
        if (n == 0 || errno != EAGAIN)
            drop(c);
        return;
    }
    c->used += n;
    c->request[c->used] = 0;
    if (strstr(c->request, "\r\n\r\n") != NULL)
        answer(c, root);
}

int main(int argc, char **argv)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN};
    int one = 1, buffer = argc > 5 ? atoi(argv[5]) : 0, listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (argc < 3)
        return 2;
    if (argc > 4)
        shared_turn = atoll(argv[3]), lone_turn = atoll(argv[4]);
    address.sin_port = htons(atoi(argv[2]));
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (buffer)
        setsockopt(listener, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1024) < 0)
        die("listen");
    signal(SIGPIPE, SIG_IGN);   /* sendfile(2) has no MSG_NOSIGNAL */
    epoll = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int n = epoll_wait(epoll, events, EVENTS, -1);
        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;
            if (c == NULL) {
                int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
                if (fd < 0 || (c = calloc(1, sizeof *c)) == NULL)
                    continue;
                c->fd = fd;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                watch(c, EPOLLIN);
            } else if (c->sending) {
                turn(c);
            } else {
                readable(c, argv[1]);
            }
        }
    }
}
