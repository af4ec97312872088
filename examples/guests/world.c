// world: prints the world that a guest sees, then uses its files in every way a C library offers and prints what came of it.
// Two runs of one request print the same bytes, times and random numbers included.
#include "guest.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <time.h>

extern char **environ;

static void line(const char *what, int64_t value) {
    out_text(what);
    out_text(value < 0 ? " -" : " ");
    out_number((uint64_t)(value < 0 ? -value : value));
    out_text("\n");
}

static void list(const char *path) {
    DIR *dir = opendir(path);
    if (dir == NULL) fail(1, "cannot list ", path);
    out_text(path);
    out_text(":");
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        out_text(" ");
        out_text(entry->d_name);
        if (entry->d_type == DT_DIR) out_text("/");
    }
    out_text("\n");
    closedir(dir);
}

static int64_t nanoseconds(clockid_t clock) {
    struct timespec time;
    clock_gettime(clock, &time);
    return time.tv_sec * 1000000000ll + time.tv_nsec;
}

// 0, or the errno of a call that returned -1.
static int outcome(int result) { return result < 0 ? errno : 0; }

static void put(const char *path, int flags, const char *text) {
    int fd = open(path, flags, 0644);
    if (fd < 0 || write(fd, text, strlen(text)) < 0) fail(1, "cannot write ", path);
    close(fd);
}

static void files(void) {
    line("mkdir", outcome(mkdir("made", 0755)));
    line("mkdir again", outcome(mkdir("made", 0755)) == EEXIST);
    put("made/a.txt", O_WRONLY | O_CREAT, "hello");
    put("made/a.txt", O_WRONLY | O_APPEND, " world");
    put("/made/b.txt", O_WRONLY | O_CREAT | O_EXCL, "b");
    put("made/gone.txt", O_WRONLY | O_CREAT, "gone");
    list("made");
    line("exclusive", outcome(open("made/b.txt", O_WRONLY | O_CREAT | O_EXCL, 0644)) == EEXIST);
    line("no such file", outcome(open("none", O_RDONLY)) == ENOENT);
    line("not a directory", outcome(open("made/b.txt/x", O_RDONLY)) == ENOTDIR);
    line("outside", outcome(open("../etc/passwd", O_RDONLY)) != 0);
    line("rmdir full", outcome(rmdir("made")) == ENOTEMPTY);
    line("unlink directory", outcome(unlink("made")) != 0);
    int fd = open("made/gone.txt", O_RDWR);
    line("unlink", outcome(unlink("made/gone.txt")));
    char bytes[16] = {0};
    line("read unlinked", read(fd, bytes, sizeof bytes));
    line("write unlinked", write(fd, "x", 1));
    close(fd);
    line("rename", outcome(rename("made", "moved")));
    line("rename over", outcome(rename("moved/b.txt", "moved/c.txt")));
    fd = open("moved/a.txt", O_RDWR);
    line("seek", lseek(fd, -5, SEEK_END));
    line("read", read(fd, bytes, sizeof bytes));
    line("seek beyond", lseek(fd, 20, SEEK_SET));
    line("write", write(fd, "!", 1));
    line("pread", pread(fd, bytes, 4, 10));
    line("truncate", outcome(ftruncate(fd, 13)));
    line("seek before", outcome((int)lseek(fd, -1, SEEK_SET)) == EINVAL);
    struct stat stat;
    line("stat", outcome(fstat(fd, &stat)));
    line("size", stat.st_size);
    line("regular", S_ISREG(stat.st_mode));
    line("modified", stat.st_mtim.tv_sec);
    close(fd);
    line("read closed", outcome((int)read(fd, bytes, 1)) == EBADF);
    line("readlink", outcome((int)readlink("moved", bytes, sizeof bytes)) == EINVAL);
    line("symlink", outcome(symlink("moved", "link")) == ENOTSUP);
    list("moved");
    list("/");
}

int main(int argc, char **argv) {
    for (int i = 0; i < argc; i++) out_text("arg "), out_text(argv[i]), out_text("\n");
    for (char **at = environ; *at; at++) out_text("env "), out_text(*at), out_text("\n");
    size_t len;
    read_all(0, &len);
    line("stdin", (int64_t)len);
    line("terminal", isatty(1));
    list("/");
    line("realtime", nanoseconds(CLOCK_REALTIME));
    line("monotonic", nanoseconds(CLOCK_MONOTONIC));
    struct timespec nap = {3600, 0};
    line("sleep", nanosleep(&nap, NULL));
    line("monotonic", nanoseconds(CLOCK_MONOTONIC));
    uint64_t random[2];
    line("entropy", getentropy(random, sizeof random));
    out_text("random ");
    out_number(random[0]);
    out_text(" ");
    out_number(random[1]);
    out_text("\n");
    files();
    out_flush();
    write(2, "seen\n", 5);
    return argc;
}
