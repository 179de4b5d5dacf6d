// SPDX-License-Identifier: MIT
// rondo-topo --svg and --png: from a decision to a file.
#include "topo/show/draw.h"
#include "topo/show/show.h"
#include "transport/temp.h"

#include <stdlib.h>

static int write_svg(const char *path, const struct td_picture *p) {
    struct rdi_text out = {0};
    td_svg(&out, p);
    rondo_status s = out.failed ? RONDO_ERR_NOMEM : rdi_temp_replace(path, out.buf, out.len, 0644);
    int code = s == RONDO_OK ? -1
               : out.failed  ? ts_fail(TS_EXIT_ERROR, "out of memory to draw %s", path)
                             : ts_fail(TS_EXIT_ERROR, "%s", rondo_last_error());
    rdi_text_free(&out);
    return code;
}

static int write_png(const char *path, const struct td_picture *p) {
    unsigned char *bytes = NULL;
    size_t len = 0;
    char why[300];
    if (!td_png(p, &bytes, &len, why, sizeof why)) {
        return ts_fail(TS_EXIT_ERROR, "cannot draw %s: %s", path, why);
    }
    rondo_status s = rdi_temp_replace(path, bytes, len, 0644);
    free(bytes);
    return s == RONDO_OK ? -1 : ts_fail(TS_EXIT_ERROR, "%s", rondo_last_error());
}

int ts_draw(const struct ts_options *o, const struct rdi_decision *d, const size_t *same) {
    struct td_picture p;
    if (!td_layout(&p, d, same)) {
        return ts_fail(TS_EXIT_ERROR, "out of memory to draw");
    }
    int code = o->svg ? write_svg(o->svg, &p) : -1;
    code = code < 0 && o->png ? write_png(o->png, &p) : code;
    td_free(&p);
    return code;
}
