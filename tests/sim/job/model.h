// SPDX-License-Identifier: MIT
// A model whose training has one right result: gradients and the optimizer are whole numbers in floats, so that a sum
// has the same bits over whatever ranks it is taken, and each gradient depends on the sample, on the parameters and on
// how often forward ran before: whatever goes wrong once is wrong ever after.
#ifndef RDI_TESTS_SIM_JOB_MODEL_H
#define RDI_TESTS_SIM_JOB_MODEL_H

#include <stddef.h>
#include <stdint.h>

#define PARAMS 6
#define LARGEST 160 // elements of a parameter

struct model {
    // Parameters 0, 2, 4 are RONDO_F32, the others RONDO_F64.
    float f[PARAMS][LARGEST];
    double d[PARAMS][LARGEST];
    int64_t moment[PARAMS][LARGEST];
    // Where the training stands; a newcomer gets it together with the moments.
    struct course {
        uint64_t step, passes; // passes: how often forward ran
        uint64_t evaluate;     // before the next step there is an evaluation to do
    } course;
};

extern const size_t model_count[PARAMS];

void model_begin(struct model *m);
// The gradient of a sample's loss, added to grad.
void model_gradient(const struct model *m, int param, uint64_t sample, int64_t *grad);
void model_update(struct model *m, int param, const int64_t *grad);
uint64_t model_hash(const struct model *m);

#endif
