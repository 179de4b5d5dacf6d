// SPDX-License-Identifier: MIT
// Prints the library's options as the OPTIONS section of rondo(7).
#include <rondo/transport.h>

#include <stdio.h>

// A leading dot or quote would be a macro.
static void text(const char *s) { printf("%s%s\n", *s == '.' || *s == '\'' ? "\\&" : "", s); }

int main(void) {
    puts(".Bl -tag -width Ds");
    for (size_t i = 0; i < rondo_option_count(); i++) {
        const rondo_option_info *o = rondo_option(i);
        printf(".It Cm %s Pq %s\n", o->name, o->type);
        text(o->help);
        puts(".br");
        printf("Allowed: %s.\n", o->allowed);
        if (*o->default_value) {
            printf("Default: %s.\n", o->default_value);
        }
    }
    puts(".El");
    return 0;
}
