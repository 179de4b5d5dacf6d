// SPDX-License-Identifier: MIT
// Where ranks meet when nobody says so: rank 0 serves the store at a port of its own and tells the others, through what
// the launcher offers to its ranks, the port, its addresses, and the job's key unless they have one.
//
// So nothing has to be exported, jobs on one host never meet, and the store and all connections are authenticated as
// always. The key is as secret as the launcher keeps what its ranks exchange: other users of the hosts cannot read it,
// as each rank has a connection of its own to the launcher's daemon; but daemons send it to each other as they do all
// they send, often in clear text. Where somebody may listen there, a key file is the better source, and comes first.
#include "transport/bootstrap/point.h"
#include "transport/bootstrap/munge.h"

#include <arpa/inet.h>
#include <pthread.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BEGIN "rondo1/"
#define ADDRESSES_MAX 8

// ---- Text ---------------------------------------------------------------------------------------

void rdi_point_encode(const struct rdi_point *p, char text[RDI_POINT_TEXT]) {
    char key[2 * RDI_KEY_BYTES + 1] = "-", reason[2 * RDI_POINT_REASON + 1] = "-";
    if (p->has_key) {
        sodium_bin2hex(key, sizeof key, p->key, sizeof p->key);
    }
    if (p->reason[0] != '\0') {
        sodium_bin2hex(reason, sizeof reason, (const uint8_t *)p->reason, strlen(p->reason));
    }
    snprintf(text, RDI_POINT_TEXT, BEGIN "%d/%s/%s/%s", p->port, key,
             p->hosts[0] != '\0' ? p->hosts : "-", reason);
    sodium_memzero(key, sizeof key);
}

// The next field up to '/' or the end; "-" is "". False: too long.
static bool take_field(const char **at, char *out, size_t cap) {
    size_t n = strcspn(*at, "/");
    if (n >= cap) {
        return false;
    }
    bool none = n == 1 && **at == '-';
    memcpy(out, *at, n);
    out[none ? 0 : n] = '\0';
    *at += n;
    return true;
}

static bool take_slash(const char **at) { return *(*at)++ == '/'; }

static const char *decode_key(const char *hex, struct rdi_point *p) {
    size_t n = 0;
    p->has_key = hex[0] != '\0';
    return !p->has_key ||
                   (strlen(hex) == 2 * RDI_KEY_BYTES &&
                    sodium_hex2bin(p->key, sizeof p->key, hex, strlen(hex), NULL, &n, NULL) == 0 &&
                    n == sizeof p->key)
               ? NULL
               : "the key";
}

static const char *decode_fields(const char *at, struct rdi_point *p, char *key, size_t key_cap) {
    char port[8] = "", reason[2 * RDI_POINT_REASON + 1] = "";
    size_t n = 0;
    if (!take_field(&at, port, sizeof port) || strlen(port) - 1 > 4 ||
        strspn(port, "0123456789") != strlen(port) || atoi(port) > 65535) {
        return "the port";
    }
    p->port = atoi(port);
    if (!take_slash(&at) || !take_field(&at, key, key_cap) || decode_key(key, p) != NULL) {
        return "the key";
    }
    if (!take_slash(&at) || !take_field(&at, p->hosts, sizeof p->hosts) ||
        strspn(p->hosts, "0123456789abcdefABCDEF.:,") != strlen(p->hosts) ||
        (p->hosts[0] == '\0') != (p->port == 0)) {
        return "the addresses";
    }
    if (!take_slash(&at) || !take_field(&at, reason, sizeof reason) || *at != '\0' ||
        sodium_hex2bin((uint8_t *)p->reason, sizeof p->reason - 1, reason, strlen(reason), NULL, &n,
                       NULL) != 0 ||
        2 * n != strlen(reason)) {
        return "the reason";
    }
    rdi_printable(p->reason, sizeof p->reason);
    return NULL;
}

const char *rdi_point_decode(const char *text, struct rdi_point *p) {
    char key[2 * RDI_KEY_BYTES + 1];
    *p = (struct rdi_point){.port = 0};
    if (strncmp(text, BEGIN, strlen(BEGIN)) != 0) {
        return "the version";
    }
    const char *wrong = decode_fields(text + strlen(BEGIN), p, key, sizeof key);
    sodium_memzero(key, sizeof key);
    if (wrong != NULL) {
        sodium_memzero(p, sizeof *p);
    }
    return wrong;
}

// ---- The choice ---------------------------------------------------------------------------------

// What a launcher offers can be used once in a process: what it told serves the next start of the job as well.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct {
    bool known;
    int rank, size;
    char *text; // RDI_POINT_TEXT bytes, out of the way of dumps and swap
} told;

static bool is_told(const struct rdi_launch *l, enum rdi_via via) {
    pthread_mutex_lock(&mutex);
    bool known = via != RDI_VIA_MUNGE && told.known && told.rank == l->rank && told.size == l->size;
    pthread_mutex_unlock(&mutex);
    return known;
}

// Whether this host's munged makes credentials of this user that it opens again; else the last error.
static bool munge_works(void) {
    char cred[RDI_MUNGE_CRED], text[8];
    if (rdi_munge_seal("-", cred) != RONDO_OK) {
        return false;
    }
    const char *wrong = rdi_munge_open(cred, text, sizeof text);
    if (wrong != NULL) {
        rdi_fail(RONDO_ERR_UNSUPPORTED, "munge does not open what it made itself: %s", wrong);
    }
    return wrong == NULL;
}

static bool usable(enum rdi_via via, rdi_getenv get, int timeout_ms, char *why, size_t cap) {
    const char *text = "";
    int fd;
    bool ok = via == RDI_VIA_PMIX    ? rdi_pmix_begin(timeout_ms) == RONDO_OK
              : via == RDI_VIA_MUNGE ? munge_works()
                                     : rdi_pmi_usable(get, &fd, &text);
    if (!ok) {
        size_t used = strlen(why);
        snprintf(why + used, cap - used, "%s%s: %s", used > 0 ? "; " : "", rdi_via_name(via),
                 via == RDI_VIA_PMI ? text : rondo_last_error());
    }
    return ok;
}

const char *rdi_via_name(enum rdi_via via) {
    return via == RDI_VIA_PMIX    ? "PMIx"
           : via == RDI_VIA_PMI   ? "PMI"
           : via == RDI_VIA_MUNGE ? "munge"
                                  : "nothing";
}

rondo_status rdi_point_choose(struct rdi_launch *l, rdi_getenv get, int timeout_ms, char *why,
                              size_t cap) {
    static const enum rdi_via order[] = {RDI_VIA_PMIX, RDI_VIA_PMI, RDI_VIA_MUNGE};
    unsigned offered = l->offered;
    l->via = RDI_VIA_NONE;
    why[0] = '\0';
    for (size_t i = 0; i < sizeof order / sizeof order[0] && l->via == RDI_VIA_NONE; i++) {
        if ((offered & order[i]) != 0 &&
            (is_told(l, order[i]) || usable(order[i], get, timeout_ms, why, cap))) {
            l->via = order[i];
        }
    }
    if (l->via == RDI_VIA_NONE && offered != 0 && l->host[0] == '\0') {
        return rdi_fail(RONDO_ERR_BOOTSTRAP,
                        "rank %d of %d does not know where rank 0 is: what its launcher offers for"
                        " that does not work (%s); set the environment variable MASTER_ADDR to the"
                        " host of rank 0 and MASTER_PORT to a free port there",
                        l->rank, l->size, why);
    }
    return RONDO_OK;
}

// ---- Telling ------------------------------------------------------------------------------------

static rondo_status list_addresses(const struct rdi_options *options, bool single_host,
                                   char hosts[RDI_POINT_HOSTS]) {
    struct rdi_netif found[ADDRESSES_MAX];
    size_t n = 0, used = 0;
    rondo_status s = single_host ? RONDO_OK : rdi_netif_list(options, found, ADDRESSES_MAX, &n);
    if (s != RONDO_OK) {
        return s;
    }
    for (size_t i = 0; i < n; i++) {
        char text[INET6_ADDRSTRLEN];
        // Link-local addresses mean something on this host's links only.
        if (!found[i].loopback && found[i].scope == 0 &&
            inet_ntop(found[i].family, found[i].addr, text, sizeof text) != NULL) {
            size_t room = RDI_POINT_HOSTS - used;
            int len = snprintf(hosts + used, room, "%s%s", used > 0 ? "," : "", text);
            if ((size_t)len >= room) {
                hosts[used] = '\0';
                break;
            }
            used += (size_t)len;
        }
    }
    if (used == 0) {
        snprintf(hosts, RDI_POINT_HOSTS, "127.0.0.1");
    }
    return RONDO_OK;
}

void rdi_point_make(const struct rdi_options *options, const struct rdi_launch *l, int port,
                    const uint8_t *key, struct rdi_point *p) {
    *p = (struct rdi_point){.port = port, .has_key = key != NULL};
    if (port == 0 || list_addresses(options, l->single_host, p->hosts) != RONDO_OK) {
        *p = (struct rdi_point){.port = 0};
        snprintf(p->reason, sizeof p->reason, "%s", rondo_last_error());
        return;
    }
    if (key != NULL) {
        memcpy(p->key, key, sizeof p->key);
    }
}

static rondo_status share(const struct rdi_launch *l, rdi_getenv get, const struct rdi_env *env,
                          int timeout_ms, const char *mine, char *text) {
    const char *why;
    int fd;
    if (l->via == RDI_VIA_PMIX) {
        return rdi_pmix_share(l->rank, timeout_ms, mine, text, RDI_POINT_TEXT);
    }
    if (!rdi_pmi_usable(get, &fd, &why)) {
        return rdi_fail(RONDO_ERR_BOOTSTRAP, "rank %d: %s", l->rank, why);
    }
    return rdi_pmi_share(fd, l->rank, env, timeout_ms, mine, text, RDI_POINT_TEXT);
}

// Without memory for it the next start of the job asks the launcher again.
static void remember(const struct rdi_launch *l, const char text[RDI_POINT_TEXT]) {
    pthread_mutex_lock(&mutex);
    told.text = told.text != NULL ? told.text : sodium_malloc(RDI_POINT_TEXT);
    told.known = told.text != NULL;
    told.rank = l->rank;
    told.size = l->size;
    if (told.known) {
        memcpy(told.text, text, RDI_POINT_TEXT);
    }
    pthread_mutex_unlock(&mutex);
}

rondo_status rdi_point_share(const struct rdi_launch *l, rdi_getenv get, const struct rdi_env *env,
                             int timeout_ms, struct rdi_point *p) {
    char mine[RDI_POINT_TEXT], text[RDI_POINT_TEXT] = "";
    rondo_status s = RONDO_OK;
    pthread_mutex_lock(&mutex);
    bool known = told.known && told.rank == l->rank && told.size == l->size;
    if (known) {
        memcpy(text, told.text, sizeof text);
    }
    pthread_mutex_unlock(&mutex);
    if (!known) {
        rdi_point_encode(p, mine);
        s = share(l, get, env, timeout_ms, l->rank == 0 ? mine : NULL, text);
        sodium_memzero(mine, sizeof mine);
    }
    const char *wrong = s == RONDO_OK ? rdi_point_decode(text, p) : NULL;
    if (wrong != NULL) {
        s = rdi_fail(RONDO_ERR_VERSION,
                     "rank %d does not understand what rank 0 says through the launcher's %s (%s);"
                     " are all ranks of the same release?",
                     l->rank, rdi_via_name(l->via), wrong);
    } else if (s == RONDO_OK && p->port == 0) {
        s = l->rank == 0
                ? rdi_fail(RONDO_ERR_BOOTSTRAP, "%s", p->reason)
                : rdi_fail(RONDO_ERR_BOOTSTRAP, "rank 0 cannot serve the store: %s", p->reason);
    } else if (s == RONDO_OK && !known) {
        remember(l, text);
    }
    sodium_memzero(text, sizeof text);
    return s;
}

bool rdi_point_again(const struct rdi_launch *l, struct rdi_point *p) {
    pthread_mutex_lock(&mutex);
    bool known = told.known && told.rank == l->rank && told.size == l->size &&
                 rdi_point_decode(told.text, p) == NULL;
    pthread_mutex_unlock(&mutex);
    return known;
}
