// SPDX-License-Identifier: MIT
// Gives the inputs in the folders named on the command line to a fuzz target: each as it is, each
// of its beginnings, and many alterations, the same ones every time. Every input lies in a block of
// its own size, so that a sanitizer sees the first byte that is read beyond it.
//   fuzz_replay_<name> ALTERATIONS FOLDER...
#include "fuzz.h"

#include <dirent.h>
#include <signal.h>
#include <string.h>

#define INPUT_MAX 65536

#pragma weak fuzz_accepts

static unsigned long runs, alterations;
static const char *doing = "";
static const uint8_t *input;
static size_t input_size;

// Which input it was, in full: it may be none of the files.
static void tell(int signal_number) {
    dprintf(2, "run %lu, %s; the input, %zu bytes:", runs, doing, input_size);
    for (size_t i = 0; i < input_size && i < 2048; i++) {
        dprintf(2, "%s%02x", i % 32 == 0 ? "\n  " : "", input[i]);
    }
    dprintf(2, "\n");
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

static void give(const uint8_t *data, size_t size) {
    uint8_t *copy = malloc(size > 0 ? size : 1);
    MUST(copy != NULL);
    if (size > 0) {
        memcpy(copy, data, size);
    }
    input = copy;
    input_size = size;
    LLVMFuzzerTestOneInput(copy, size);
    free(copy);
    runs++;
}

static uint32_t next(uint64_t *seed) {
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static void alter(const uint8_t *data, size_t size, uint64_t seed) {
    static const uint8_t edges[] = {0, 1, 0x7f, 0x80, 0xff, ',', '=', '|'};
    uint8_t changed[INPUT_MAX];
    memcpy(changed, data, size);
    for (uint32_t i = 0; i <= next(&seed) % 4; i++) {
        uint8_t *at = &changed[next(&seed) % size];
        switch (next(&seed) % 4) {
        case 0:
            *at ^= (uint8_t)(1u << next(&seed) % 8);
            break;
        case 1:
            *at = edges[next(&seed) % sizeof edges];
            break;
        case 2:
            *at = (uint8_t)next(&seed);
            break;
        default:
            *at = changed[next(&seed) % size];
            break;
        }
    }
    give(changed, next(&seed) % 4 == 0 ? next(&seed) % (size + 1) : size);
}

static void replay(const uint8_t *data, size_t size) {
    give(data, size);
    for (size_t n = 0; n < size; n++) {
        give(data, n);
    }
    for (uint64_t i = 0; size > 0 && i < alterations; i++) {
        alter(data, size, i);
    }
}

static int replay_folder(const char *folder) {
    static uint8_t data[INPUT_MAX];
    DIR *dir = opendir(folder);
    if (dir == NULL) {
        perror(folder);
        return 0;
    }
    int files = 0;
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        FILE *f = e->d_name[0] != '.' ? fopen(path, "rb") : NULL;
        if (f != NULL) {
            size_t size = fread(data, 1, sizeof data, f);
            fclose(f);
            doing = path;
            if (fuzz_accepts != NULL && strncmp(e->d_name, "good_", 5) == 0) {
                input = data;
                input_size = size;
                MUST(fuzz_accepts(data, size));
            }
            replay(data, size);
            files++;
        }
    }
    closedir(dir);
    return files;
}

int main(int argc, char **argv) {
    int files = 0;
    signal(SIGABRT, tell);
    alterations = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
    for (int i = 2; i < argc; i++) {
        files += replay_folder(argv[i]);
    }
    printf("%d inputs, %lu runs\n", files, runs);
    return files > 0 ? 0 : 1;
}
