// SPDX-License-Identifier: MIT
// Gloo over TCP on the loopback interface. Forks its ranks, which find each other through a folder.
//   --ranks N --store FOLDER (empty) --algorithm NAME [--busy-poll yes]
//   NAME: default (gloo::allreduce, what PyTorch calls), or a class: ring_chunked, halving_doubling
#include "loop.h"
#include "ranks.h"

#include <gloo/allreduce.h>
#include <gloo/allreduce_halving_doubling.h>
#include <gloo/allreduce_ring_chunked.h>
#include <gloo/math.h>
#include <gloo/rendezvous/context.h>
#include <gloo/rendezvous/file_store.h>
#include <gloo/transport/tcp/device.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

namespace {

struct Rank {
    std::shared_ptr<gloo::Context> context;
    std::string algorithm;
    std::unique_ptr<gloo::Algorithm> instance;       // of a class
    std::unique_ptr<gloo::AllreduceOptions> options; // of gloo::allreduce
    uint32_t tag = 0;
};

int prepare(void *state, float *buffer, size_t count) {
    auto rank = static_cast<Rank *>(state);
    const std::vector<float *> buffers{buffer};
    const int n = static_cast<int>(count);
    rank->instance.reset();
    rank->options.reset();
    if (rank->algorithm == "ring_chunked") {
        rank->instance.reset(new gloo::AllreduceRingChunked<float>(rank->context, buffers, n));
    } else if (rank->algorithm == "halving_doubling") {
        rank->instance.reset(new gloo::AllreduceHalvingDoubling<float>(rank->context, buffers, n));
    } else {
        void (*sum)(void *, const void *, const void *, size_t) = &gloo::sum<float>;
        rank->options.reset(new gloo::AllreduceOptions(rank->context));
        rank->options->setOutput(buffer, count);
        rank->options->setReduceFunction(sum);
    }
    return 0;
}

int allReduce(void *state, float *, size_t) {
    auto rank = static_cast<Rank *>(state);
    if (rank->instance) {
        rank->instance->run();
    } else {
        rank->options->setTag(rank->tag++);
        gloo::allreduce(*rank->options);
    }
    return 0;
}

int runRank(int argc, char **argv, int r, int n) {
    try {
        gloo::transport::tcp::attr attr;
        attr.iface = "lo";
        auto device = gloo::transport::tcp::CreateDevice(attr);
        gloo::rendezvous::FileStore store(loop_argument(argc, argv, "--store", "."));
        auto context = std::make_shared<gloo::rendezvous::Context>(r, n);
        context->connectFullMesh(store, device);
        if (loop_argument(argc, argv, "--busy-poll", nullptr)) {
            // No hand-over to the thread that waits in epoll: the caller polls its sockets.
            for (int i = 0; i < n; i++) {
                if (i != r) {
                    context->getPair(i)->setSync(true, true);
                }
            }
        }
        Rank state;
        state.context = context;
        state.algorithm = loop_argument(argc, argv, "--algorithm", "default");
        loop_peer peer = {};
        peer.rank = r;
        peer.size = n;
        peer.state = &state;
        peer.prepare = prepare;
        peer.op = allReduce;
        return loop_run(argc, argv, &peer);
    } catch (const std::exception &e) {
        fprintf(stderr, "rank %d: %s\n", r, e.what());
        return 5;
    }
}

} // namespace

int main(int argc, char **argv) {
    return ranks_run(argc, argv, atoi(loop_argument(argc, argv, "--ranks", "2")), runRank);
}
