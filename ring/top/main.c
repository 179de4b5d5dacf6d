// SPDX-License-Identifier: MIT
// rondo-top: see rondo-top(1).
#include "ring/top/top.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define RATE_NS 300000000L // between two looks for a rate when there is only one screen
#define FILE_MAX ((long)1 << 30)

// ---- Dumps ---------------------------------------------------------------------------------------

static bool read_dump(struct top_job *job, const char *path, char *why, size_t cap) {
    char wrong[200] = "", *text = NULL;
    FILE *f = fopen(path, "re");
    long size = f && fseek(f, 0, SEEK_END) == 0 ? ftell(f) : -1;
    bool ok = size > 0 && size < FILE_MAX && fseek(f, 0, SEEK_SET) == 0;
    if (!ok) {
        snprintf(wrong, sizeof wrong, "%s", f && size == 0 ? "it is empty" : strerror(errno));
    }
    text = ok ? malloc((size_t)size) : NULL;
    size_t n = text ? fread(text, 1, (size_t)size, f) : 0;
    ok = ok && text && top_parse(job, text, n, wrong, sizeof wrong);
    if (!ok) {
        snprintf(why, cap, "%.200s cannot be read: %s", path, wrong[0] ? wrong : "out of memory");
    }
    free(text);
    if (f) {
        fclose(f);
    }
    return ok;
}

static bool is_dump(const char *name) {
    size_t n = strlen(name);
    return strncmp(name, "rondo-dump.", 11) == 0 && n > 16 && strcmp(name + n - 5, ".json") == 0;
}

static bool read_folder(struct top_job *job, const char *path, char *why, size_t cap) {
    DIR *d = opendir(path);
    size_t found = 0;
    bool ok = d != NULL;
    for (struct dirent *e; ok && (e = readdir(d));) {
        char name[4096];
        if (is_dump(e->d_name)) {
            snprintf(name, sizeof name, "%s/%s", path, e->d_name);
            ok = read_dump(job, name, why, cap);
            found++;
        }
    }
    if (d) {
        closedir(d);
    }
    if (!d || (ok && found == 0)) {
        snprintf(why, cap, "%.200s: %s", path, d ? "no file rondo-dump.*.json" : strerror(errno));
        ok = false;
    }
    return ok;
}

static int show_dumps(const struct top_options *o) {
    struct top_job job = {.size = 0};
    struct top_verdict v;
    char why[512];
    bool ok = true;
    for (size_t i = 0; ok && i < o->nfiles; i++) {
        struct stat st;
        bool folder = stat(o->files[i], &st) == 0 && S_ISDIR(st.st_mode);
        ok = folder ? read_folder(&job, o->files[i], why, sizeof why)
                    : read_dump(&job, o->files[i], why, sizeof why);
    }
    if (ok) {
        top_analyse(&job, true, &v);
        if (o->json) {
            ok = top_report(stdout, &job, &v);
        } else {
            top_show(stdout, &job, &v, isatty(STDOUT_FILENO) ? 160 : 200, isatty(STDOUT_FILENO));
        }
        snprintf(why, sizeof why, "cannot write: %s", strerror(errno));
    }
    ok = fflush(stdout) == 0 && ok;
    top_job_free(&job);
    return ok ? 0 : top_fail(TOP_EXIT_ERROR, "%s", why);
}

// ---- A running job -------------------------------------------------------------------------------

static uint64_t total(const struct top_rank *r, bool sent) {
    uint64_t n = 0;
    for (size_t i = 0; i < r->ncomms; i++) {
        n += sent ? r->comms[i].bytes_sent : r->comms[i].bytes_received;
    }
    return n;
}

static double rate(const struct top_rank *now, const struct top_rank *then, bool sent) {
    uint64_t a = total(then, sent), b = total(now, sent);
    if (now->pid != then->pid || now->monotonic <= then->monotonic || b < a) {
        return -1;
    }
    return (double)(b - a) / ((double)(now->monotonic - then->monotonic) * 1e-9);
}

static void find_rates(struct top_job *job, struct top_job *before) {
    for (size_t i = 0; i < job->nranks; i++) {
        struct top_rank *r = &job->ranks[i], *was = top_job_rank(before, r->rank);
        if (was && was->answered && r->answered) {
            r->send_rate = rate(r, was, true);
            r->receive_rate = rate(r, was, false);
        }
    }
}

static bool look(const struct top_options *o, struct top_job *job, char *why, size_t cap) {
    struct top_list list;
    memset(job, 0, sizeof *job);
    bool ok = top_list_read(&list) && top_list_choose(&list, o->what, why, cap);
    if (ok) {
        snprintf(job->name, sizeof job->name, "%s", list.items[0].job);
        ok = top_ask(&list, 't', job, NULL, NULL, why, cap);
        if (ok && job->size == 0) { // nobody answered, so nobody has said how many there are
            job->size = (int)job->nranks;
        }
    }
    top_list_free(&list);
    return ok;
}

static void nap(double seconds) {
    struct timespec t = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&t, NULL);
}

// Lines are cut to the terminal's width, and what was there before is cleared, without a flicker.
static bool draw(const struct top_job *job, const struct top_verdict *v, bool screen) {
    struct winsize size = {.ws_col = 0};
    bool terminal = isatty(STDOUT_FILENO);
    int width = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 20 ? size.ws_col
                                                                                 : 200;
    if (screen) {
        char *text = NULL;
        size_t n = 0;
        FILE *f = open_memstream(&text, &n);
        if (!f) {
            return false;
        }
        top_show(f, job, v, width, true);
        fclose(f);
        fputs("\033[H", stdout);
        for (char *line = text, *end; line && (end = strchr(line, '\n')); line = end + 1) {
            printf("%.*s\033[K\n", (int)(end - line), line);
        }
        fputs("\033[J", stdout);
        free(text);
    } else {
        top_show(stdout, job, v, width, terminal);
    }
    return fflush(stdout) == 0;
}

static int show_job(const struct top_options *o) {
    struct top_job job, before = {.size = 0};
    struct top_verdict v;
    char why[512];
    bool repeat = !o->once && !o->json && isatty(STDOUT_FILENO), ok = true;
    for (int turn = 0; ok && (repeat || turn < 2); turn++) {
        ok = look(o, &job, why, sizeof why);
        if (!ok) {
            break;
        }
        find_rates(&job, &before);
        top_job_free(&before);
        if (repeat || turn == 1) {
            top_analyse(&job, false, &v);
            ok = o->json ? top_report(stdout, &job, &v) && fflush(stdout) == 0
                         : draw(&job, &v, repeat && turn > 0);
            snprintf(why, sizeof why, "cannot write: %s", strerror(errno));
            if (repeat && turn == 0) {
                fputs("\033[2J", stdout);
            }
        }
        before = job;
        nap(repeat ? o->delay : turn == 0 ? RATE_NS * 1e-9 : 0);
    }
    top_job_free(&before);
    return ok ? 0 : top_fail(TOP_EXIT_ERROR, "%s", why);
}

static int show_list(void) {
    struct top_list list;
    if (!top_list_read(&list)) {
        return top_fail(TOP_EXIT_ERROR, "cannot read /proc/net/unix: %s", strerror(errno));
    }
    if (list.n == 0) {
        puts("no rank of a job runs on this host (in this network namespace)");
    }
    for (size_t i = 0; i < list.n; i++) {
        const struct top_process *p = &list.items[i];
        if (i == 0 || strcmp(p->job, list.items[i - 1].job) != 0) {
            printf("%sjob %s:", i ? "\n" : "", p->job);
        }
        printf(" %d (pid %d)", p->rank, (int)p->pid);
    }
    if (list.n) {
        putchar('\n');
    }
    top_list_free(&list);
    return fflush(stdout) == 0 ? 0 : TOP_EXIT_ERROR;
}

struct saving {
    const char *dir;
    size_t n;
    int err;
};

static bool save(void *arg, const struct top_process *p, const char *text, size_t len) {
    struct saving *s = arg;
    char path[4200], host[65] = "";
    (void)gethostname(host, sizeof host - 1);
    for (char *c = host; *c; c++) {
        *c = *c == '/' || *c == '.' ? '_' : *c;
    }
    snprintf(path, sizeof path, "%s/rondo-dump.%s.%d.%d.json", s->dir, host, p->rank, (int)p->pid);
    (void)unlink(path);
    int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    bool ok = fd >= 0 && write(fd, text, len) == (ssize_t)len;
    s->err = ok ? 0 : errno;
    if (fd >= 0 && close(fd) != 0 && ok) {
        s->err = errno;
    }
    s->n++;
    return s->err == 0;
}

static int dump_job(const struct top_options *o) {
    struct top_list list;
    struct top_job job = {.size = 0};
    struct saving s = {.dir = o->dump};
    char why[512] = "cannot read /proc/net/unix";
    bool ok = top_list_read(&list) && top_list_choose(&list, o->what, why, sizeof why) &&
              top_ask(&list, 'd', &job, save, &s, why, sizeof why);
    if (ok) {
        printf("%zu of the job's %d ranks written to %s\n", s.n, job.size, o->dump);
    } else if (s.err) {
        snprintf(why, sizeof why, "cannot write to %.200s: %s", o->dump, strerror(s.err));
    }
    top_list_free(&list);
    top_job_free(&job);
    return ok && s.n > 0 ? 0 : top_fail(TOP_EXIT_ERROR, "%s", ok ? "no rank answered" : why);
}

int main(int argc, char **argv) {
    struct top_options o;
    int code = top_options_parse(&o, argc, argv);
    if (code >= 0) {
        return code;
    }
    if (o.merge) {
        char why[512];
        return top_merge(o.merge, o.files, o.nfiles, why, sizeof why)
                   ? 0
                   : top_fail(TOP_EXIT_ERROR, "%s", why);
    }
    if (o.nfiles) {
        return show_dumps(&o);
    }
    if (o.list) {
        return show_list();
    }
    if (o.dump) {
        return dump_job(&o);
    }
    struct top_list list;
    char why[512];
    if (!o.what && top_list_read(&list)) {
        bool several = list.n > 0 && !top_list_choose(&list, NULL, why, sizeof why);
        top_list_free(&list);
        if (several) {
            return show_list();
        }
    }
    return show_job(&o);
}
