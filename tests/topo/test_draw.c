// SPDX-License-Identifier: MIT
// Pictures of all saved machines, alone and as clusters: nothing lies over anything else, all is where it belongs.
//
//   test_draw FOLDER   with saved machines
#include "topo/show/draw.h"
#include "topo/show/show.h"

#include <dirent.h>
#include <setjmp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static const char *folder;

// ---- Rectangles ----------------------------------------------------------------------------------

struct area {
    int left, top, right, low;
};

static struct area area_of(const struct td_box *b) {
    return (struct area){b->x, b->y, b->x + b->w, b->y + b->h};
}

// Of the letters, without what most of them do not have below the line.
static struct area area_of_text(const struct td_picture *p, const struct td_text *t) {
    int x = p->boxes[t->box].x + t->dx, y = p->boxes[t->box].y + t->dy;
    return (struct area){x, y - t->size * 3 / 4, x + t->width, y};
}

static bool inside(struct area a, struct area b) {
    return a.left >= b.left && a.top >= b.top && a.right <= b.right && a.low <= b.low;
}

static bool meet(struct area a, struct area b) {
    return a.left < b.right && b.left < a.right && a.top < b.low && b.top < a.low;
}

static bool is_above(const struct td_picture *p, int up, int box) {
    while (box >= 0 && box != up) {
        box = p->boxes[box].parent;
    }
    return box == up;
}

#define EXPECT(truth, ...)            \
    do {                              \
        if (!(truth)) {               \
            print_error(__VA_ARGS__); \
            print_error("\n");        \
            fail();                   \
        }                             \
    } while (0)

// ---- What holds of any picture -------------------------------------------------------------------

static void check_boxes(const struct td_picture *p, const char *name) {
    assert_int_equal(p->boxes[0].parent, -1);
    for (int i = 1; i < (int)p->nboxes; i++) {
        const struct td_box *b = &p->boxes[i];
        struct area a = area_of(b);
        assert_true(b->parent >= 0 && b->parent < i && b->w > 0 && b->h > 0);
        EXPECT(inside(a, area_of(&p->boxes[b->parent])), "%s: box %d, kind %d, is beyond box %d",
               name, i, b->kind, b->parent);
        for (int k = 1; k < i; k++) {
            EXPECT(p->boxes[k].parent != b->parent || !meet(a, area_of(&p->boxes[k])),
                   "%s: boxes %d and %d, kinds %d and %d, overlap", name, k, i, p->boxes[k].kind,
                   b->kind);
        }
    }
}

static void check_texts(const struct td_picture *p, const char *name) {
    for (size_t i = 0; i < p->ntexts; i++) {
        const struct td_text *t = &p->texts[i];
        struct area a = area_of_text(p, t);
        assert_true(t->width > 0 && t->width >= td_width(t->words, SIZE_MAX, t->size, t->bold));
        EXPECT(inside(a, area_of(&p->boxes[t->box])), "%s: \"%s\" leaves its box", name, t->words);
        for (size_t k = 0; k < i; k++) {
            EXPECT(!meet(a, area_of_text(p, &p->texts[k])), "%s: \"%s\" and \"%s\" overlap", name,
                   t->words, p->texts[k].words);
        }
        for (int k = 0; k < (int)p->nboxes; k++) {
            EXPECT(is_above(p, k, t->box) || !meet(a, area_of(&p->boxes[k])),
                   "%s: box %d, kind %d, is over \"%s\"", name, k, p->boxes[k].kind, t->words);
        }
    }
}

static struct area between(struct td_point a, struct td_point b) {
    return (struct area){a.x < b.x ? a.x : b.x, a.y < b.y ? a.y : b.y, (a.x < b.x ? b.x : a.x) + 1,
                         (a.y < b.y ? b.y : a.y) + 1};
}

static void check_lines(const struct td_picture *p, const char *name) {
    struct area sheet = area_of(&p->boxes[0]);
    for (size_t i = 0; i < p->nlines; i++) {
        const struct td_line *l = &p->lines[i];
        assert_in_range(l->n, 2, TD_POINTS);
        for (int k = 0; k < l->n; k++) {
            struct area at = {l->at[k].x, l->at[k].y, l->at[k].x, l->at[k].y};
            assert_true(inside(at, sheet));
            if (k == 0) {
                continue;
            }
            struct td_point a = l->at[k - 1], b = l->at[k];
            assert_true(a.x == b.x || a.y == b.y);
            struct area s = between(a, b);
            for (size_t t = 0; t < p->ntexts; t++) {
                EXPECT(!meet(s, area_of_text(p, &p->texts[t])), "%s: a line is over \"%s\"", name,
                       p->texts[t].words);
            }
        }
    }
}

// Rails cross each other, but none hides a part of another.
static void check_crossings(const struct td_picture *p, const char *name) {
    for (size_t i = 0; i < p->nlines; i++) {
        for (size_t k = 0; k < i; k++) {
            const struct td_line *a = &p->lines[i], *b = &p->lines[k];
            for (int m = 1; a->look == TD_RAIL && b->look == TD_RAIL && m < a->n; m++) {
                for (int n = 1; n < b->n; n++) {
                    bool along = (a->at[m - 1].x == a->at[m].x) == (b->at[n - 1].x == b->at[n].x);
                    EXPECT(!along || !meet(between(a->at[m - 1], a->at[m]),
                                           between(b->at[n - 1], b->at[n])),
                           "%s: a line of rail %d hides one of rail %d", name, a->ring, b->ring);
                }
            }
        }
    }
}

static bool apart(const struct td_dot *a, const struct td_dot *b) {
    int dx = a->x - b->x, dy = a->y - b->y, r = a->r + b->r;
    return dx * dx + dy * dy >= r * r;
}

static void check_dots(const struct td_picture *p, const char *name) {
    for (size_t i = 0; i < p->ndots; i++) {
        const struct td_dot *d = &p->dots[i];
        struct area a = {d->x - d->r, d->y - d->r, d->x + d->r, d->y + d->r};
        assert_true(inside(a, area_of(&p->boxes[0])));
        for (size_t k = 0; k < i; k++) {
            EXPECT(apart(d, &p->dots[k]), "%s: the numbers %d and %d overlap", name, d->number,
                   p->dots[k].number);
        }
        for (size_t k = 0; k < p->ntexts; k++) {
            EXPECT(!meet(a, area_of_text(p, &p->texts[k])), "%s: a number is over \"%s\"", name,
                   p->texts[k].words);
        }
    }
}

// The hops of a rail, one after the other: each begins at the number at which the one before it ended, and the last
// ends at the first.
static void check_rails(const struct td_picture *p, const char *name, int rails) {
    for (int ring = 0; ring < rails; ring++) {
        const struct td_line *first = NULL, *last = NULL;
        for (size_t i = 0; i < p->nlines; i++) {
            const struct td_line *l = &p->lines[i];
            if (l->look != TD_RAIL || l->ring != ring || l->key) {
                continue;
            }
            struct td_point from = l->at[0];
            EXPECT(!last || (abs(last->at[last->n - 1].x - from.x) <= 8 &&
                             abs(last->at[last->n - 1].y - from.y) <= 10),
                   "%s: rail %d does not go on", name, ring);
            first = first ? first : l;
            last = l;
        }
        assert_non_null(first);
        assert_in_range(abs(last->at[last->n - 1].x - first->at[0].x), 0, 8);
        assert_in_range(abs(last->at[last->n - 1].y - first->at[0].y), 0, 10);
    }
}

// Each rank of a host that is drawn whole is there, or one that stands for it; each device and each core.
static void check_counts(const struct td_picture *p, const rondo_topo *t, int hosts, int ranks) {
    int count[TD_KINDS] = {0};
    for (size_t i = 0; i < p->nboxes; i++) {
        bool key = p->boxes[i].parent > 0 && p->boxes[p->boxes[i].parent].kind == TD_KEY;
        count[p->boxes[i].kind] += !key;
    }
    assert_int_equal(count[TD_HOST], hosts);
    assert_int_equal(count[TD_GPU] + count[TD_NIC], hosts * rondo_topo_machine(t)->devices);
    assert_int_equal(count[TD_NUMA], hosts * rondo_topo_machine(t)->numas);
    assert_true(count[TD_RANK] <= hosts * ranks && count[TD_RANK] >= hosts);
    assert_true(ranks > 16 || count[TD_RANK] == hosts * ranks);
    if (rondo_topo_machine(t)->cores > 0 && rondo_topo_machine(t)->cores <= 64) {
        assert_int_equal(count[TD_CORE], hosts * rondo_topo_machine(t)->cores);
    }
}

// ---- Pictures ------------------------------------------------------------------------------------

// Hosts of kind i are those of topology i % kinds.
static void draw(rondo_topo *const *kinds, int nkinds, int hosts, int ranks, const char *what) {
    if (hosts < 1) {
        fail();
        return;
    }
    struct rdi_decide_host *in = calloc((size_t)hosts, sizeof *in);
    size_t *same = calloc((size_t)hosts, sizeof *same);
    char *names = calloc((size_t)hosts, 16), name[200];
    struct rdi_decision *d = NULL;
    struct td_picture p;
    snprintf(name, sizeof name, "%s: %d hosts of %d ranks", what, hosts, ranks);
    for (int i = 0; i < hosts; i++) {
        snprintf(names + 16 * i, 16, "host%d", i);
        in[i] = (struct rdi_decide_host){
            .name = names + 16 * i, .topo = kinds[i % nkinds], .ranks = ranks};
        same[i] = (size_t)(i % nkinds);
    }
    assert_int_equal(rdi_decide(in, hosts, &d), RONDO_OK);
    assert_true(td_layout(&p, d, same));
    check_boxes(&p, name);
    check_texts(&p, name);
    check_lines(&p, name);
    check_crossings(&p, name);
    check_dots(&p, name);
    check_rails(&p, name, d->nrails);
    if (hosts <= 4 && nkinds == 1) {
        check_counts(&p, kinds[0], hosts, ranks);
    }
    td_free(&p);
    rdi_decision_free(d);
    free(names);
    free(same);
    free(in);
}

static int load(rondo_topo **out, int most) {
    struct dirent **files;
    int all = scandir(folder, &files, NULL, alphasort), n = 0;
    assert_true(all > 0);
    for (int i = 0; i < all; i++) {
        char path[1024];
        rondo_topo_config config = RONDO_TOPO_CONFIG_INIT;
        snprintf(path, sizeof path, "%s/%s", folder, files[i]->d_name);
        config.file = path;
        if (strstr(files[i]->d_name, ".xml") && n < most) {
            assert_int_equal(rondo_topo_load(&config, &out[n++]), RONDO_OK);
        }
        free(files[i]);
    }
    free(files);
    assert_true(n >= 10 && n < most);
    return n;
}

static void draws_machines(void **state) {
    (void)state;
    rondo_topo *all[40];
    int n = load(all, 40);
    static const int hosts[] = {1, 2, 3, 5, 33}, ranks[] = {1, 3, 8, 17, 200};
    for (int i = 0; i < n; i++) {
        for (size_t k = 0; k < sizeof hosts / sizeof hosts[0]; k++) {
            draw(&all[i], 1, hosts[k], rdi_decide_default_ranks(all[i]), "alike");
            draw(&all[i], 1, hosts[k], ranks[k], "alike");
        }
    }
    draw(all, n, n, 3, "unlike");
    draw(all, 2, 4, 5, "unlike");
    draw(all, 3, 70, 2, "unlike");
    for (int i = 0; i < n; i++) {
        rondo_topo_free(all[i]);
    }
}

static void draws_descriptions(void **state) {
    (void)state;
    static const char *const words[] = {"pu:1",
                                        "pu:700",
                                        "pack:1 numa:8 l3:2 core:4 pu:2",
                                        "pack:2 numa:1 l3:60 core:2 pu:1",
                                        "pack:4 numa:2 core:65 pu:1",
                                        "numa:1 pack:3 l3:3 core:5 pu:1"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        rondo_topo_config config = RONDO_TOPO_CONFIG_INIT;
        rondo_topo *t;
        config.synthetic = words[i];
        assert_int_equal(rondo_topo_load(&config, &t), RONDO_OK);
        draw(&t, 1, 1, rdi_decide_default_ranks(t), words[i]);
        draw(&t, 1, 3, 4, words[i]);
        draw(&t, 1, 1, 100, words[i]);
        rondo_topo_free(t);
    }
}

// ---- Memory --------------------------------------------------------------------------------------

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *old, size_t n);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *old, size_t n);

static long asked, last = -1; // the last that is given; -1 = all are

static bool given(void) { return last < 0 || asked++ < last; }

void *__wrap_malloc(size_t n) { return given() ? __real_malloc(n) : NULL; }
void *__wrap_calloc(size_t n, size_t size) { return given() ? __real_calloc(n, size) : NULL; }
void *__wrap_realloc(void *old, size_t n) { return given() ? __real_realloc(old, n) : NULL; }

// From each allocation on: an error, and nothing that is left behind or used all the same.
static void runs_out_of_memory(void **state) {
    (void)state;
    rondo_topo *all[40];
    int n = load(all, 40);
    static const size_t same[5] = {0};
    for (int hosts = 1; hosts <= 5; hosts += 2) {
        struct rdi_decide_host in[5];
        struct rdi_decision *d;
        for (int i = 0; i < 5; i++) {
            in[i] = (struct rdi_decide_host){.name = "a", .topo = all[hosts], .ranks = 20};
        }
        assert_int_equal(rdi_decide(in, hosts, &d), RONDO_OK);
        struct td_picture p;
        bool done = false;
        for (long k = 0; !done; k++) {
            asked = 0;
            last = k;
            done = td_layout(&p, d, same);
            last = -1;
            assert_true(done == (asked <= k));
        }
        assert_true(asked > 30);
        td_free(&p);
        rdi_decision_free(d);
    }
    for (int i = 0; i < n; i++) {
        rondo_topo_free(all[i]);
    }
}

// ---- Words ---------------------------------------------------------------------------------------

static void cuts_words(void **state) {
    (void)state;
    struct td_picture p = {0};
    int box = td_box(&p, TD_SHEET, -1, 0, 0, 100, 100);
    int whole = td_width("Ethernet", SIZE_MAX, 10, false);
    assert_in_range(whole, 40, 50);
    assert_true(td_width("Ethernet", SIZE_MAX, 10, true) > whole);
    assert_int_equal(td_width("Ethernet", 5, 10, false), td_width("Ether", SIZE_MAX, 10, false));
    assert_int_equal(td_width("\u00fc\u4e2d\xff", SIZE_MAX, 10, false), 30); // as wide as can be
    assert_int_equal(td_write(&p, box, 0, 10, 10, false, whole, "Ethernet"), whole);
    assert_string_equal(p.texts[0].words, "Ethernet");
    assert_true(td_write(&p, box, 0, 10, 10, false, whole - 1, "Ethernet") < whole);
    assert_string_equal(p.texts[1].words, "Ether\u2026");
    td_write(&p, box, 0, 10, 10, false, 25, "\u00fc\u00fc\u00fc");
    assert_string_equal(p.texts[2].words, "\u00fc\u2026");
    assert_int_equal(td_write(&p, box, 0, 10, 10, false, 5, "Ethernet"), 0); // nothing fits
    assert_int_equal(p.ntexts, 3);
    assert_string_equal(td_say(&p, "a\033[2J\xff\xc2\x9b%s", "\u00fc\nb"), "a?[2J???\u00fc\nb");
    assert_string_equal(td_say(&p, "\xef\xbf\xbe\xef\xb7\x90\xf0\x9f\xbf\xbf%s", "\uffee"),
                        "??????????\uffee"); // no characters, and one
    td_write(&p, box, 0, 10, 10, false, 90, "a\xef\xbf\xbf\n");
    assert_string_equal(p.texts[3].words, "a???\n");
    td_free(&p);
}

int main(int argc, char **argv) {
    if (argc != 2) {
        fprintf(stderr, "usage: test_draw FOLDER\n");
        return 2;
    }
    folder = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(draws_machines),
        cmocka_unit_test(draws_descriptions),
        cmocka_unit_test(runs_out_of_memory),
        cmocka_unit_test(cuts_words),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
