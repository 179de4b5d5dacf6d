// SPDX-License-Identifier: MIT
// Bugs for `run --self-test`: each tool must find those that carry its name. This file is never built.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int planted_null(int set);
void planted_overflow(char *to);
int planted_leak(size_t n);
int planted_double_free(int n);
int planted_uninitialized(int set);
size_t planted_widening(int rows, int columns);

// gcc, clang-tidy: a null pointer is dereferenced where set is 0.
int planted_null(int set) {
    int value = 3, *at = NULL;
    if (set) {
        at = &value;
    }
    return *at;
}

// cppcheck: writes beyond an array.
void planted_overflow(char *to) {
    char text[8];
    for (int i = 0; i <= 8; i++) {
        text[i] = 'x';
    }
    memcpy(to, text, sizeof text);
}

// clang-tidy: memory is lost on the way out.
int planted_leak(size_t n) {
    char *block = malloc(n);
    if (block == NULL) {
        return -1;
    }
    block[0] = 'x';
    return block[0] == 'x' && n > 1 ? 0 : -1;
}

// gcc: freed twice where n is negative.
int planted_double_free(int n) {
    char *block = malloc((size_t)8);
    if (block != NULL && n < 0) {
        free(block);
    }
    free(block);
    return n;
}

// cppcheck: read before it is written.
int planted_uninitialized(int set) {
    int value;
    if (set > 3) {
        value = 4;
    }
    return value + set;
}

// clang-tidy: the product overflows before it is made wide.
size_t planted_widening(int rows, int columns) {
    char *block = malloc((size_t)8);
    long long product = rows * columns;
    free(block);
    return (size_t)product;
}
