# SPDX-License-Identifier: MIT
"""PyTorch DDP over unmodified NCCL with Rondo as its network: torch_ddp.py BUILD-TREE

Two processes, each a "host" of its own for NCCL (NCCL_HOSTID), so that one GPU serves both and all traffic goes through
the network plugin. Losses must be those of one process on the whole batch. Prints one JSON; 77: PyTorch is not here."""

import json
import os
import subprocess
import sys

STEPS, BATCH = 20, 64


def model(torch):
    torch.manual_seed(1)
    return torch.nn.Sequential(torch.nn.Linear(64, 256), torch.nn.Tanh(), torch.nn.Linear(256, 8)).cuda()


def data(torch, step):
    g = torch.Generator().manual_seed(step)
    return torch.randn(BATCH, 64, generator=g).cuda(), torch.randn(BATCH, 8, generator=g).cuda()


def train(torch, net, rank, world):
    losses, sgd = [], torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(STEPS):
        x, y = data(torch, step)
        part = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
        loss = ((net(x[part]) - y[part]) ** 2).mean()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        losses.append(float(((net(x) - y) ** 2).mean().detach()))
    return losses


def rank_main():
    import torch
    rank = int(os.environ["RANK"])
    torch.cuda.set_device(rank % torch.cuda.device_count())
    torch.distributed.init_process_group("nccl")
    net = torch.nn.parallel.DistributedDataParallel(model(torch))
    losses = train(torch, net, rank, 2)
    torch.distributed.destroy_process_group()
    if rank == 0:
        print(json.dumps(losses))


def environment(build, rank):
    # Rank by rank: see NCCL's environment variables; NCCL_HOSTID makes each process a host.
    return {**os.environ, "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29517", "NCCL_HOSTID": "rondo-rank%d" % rank, "NCCL_NET_PLUGIN": "rondo", "NCCL_NET": "Rondo",
            "NCCL_P2P_DISABLE": "1", "NCCL_SHM_DISABLE": "1", "NCCL_SOCKET_IFNAME": "lo", "NCCL_NVLS_ENABLE": "0",
            "NCCL_MNNVL_ENABLE": "0", "NCCL_MAX_NCHANNELS": "2", "NCCL_DEBUG": "INFO", "RONDO_TRANSPORT": "tcp",
            "RONDO_INTERFACE": "127.0.0.0/8",
            "LD_LIBRARY_PATH": "%s:%s" % (build, os.environ.get("LD_LIBRARY_PATH", ""))}


def main():
    try:
        import torch
    except ImportError:
        print("PyTorch is not installed", file=sys.stderr)
        return 77
    if not torch.cuda.is_available() or not torch.distributed.is_nccl_available():
        print("this PyTorch has no CUDA or no NCCL", file=sys.stderr)
        return 77
    ranks = [subprocess.Popen([sys.executable, __file__, "rank"], env=environment(sys.argv[1], r), text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for r in range(2)]
    outs = []
    try:
        outs = [r.communicate(timeout=200)[0] for r in ranks]
    except subprocess.TimeoutExpired:
        print("a rank did not end", file=sys.stderr)
        return 1
    finally:
        for r in ranks:
            r.kill()
    if any(r.returncode for r in ranks):
        print("\n".join(out[-1500:] for out in outs), file=sys.stderr)
        return 1
    used = "NET/Rondo" in outs[0]
    together = json.loads([line for line in outs[0].splitlines() if line.startswith("[")][-1])
    alone = train(torch, model(torch), 0, 1)
    error = max(abs(a - b) / abs(b) for a, b in zip(together, alone))
    print(json.dumps({"torch": torch.__version__, "nccl": ".".join(map(str, torch.cuda.nccl.version())),
                      "over_rondo": used, "steps": STEPS, "largest_relative_difference": error}))
    if not used or error > 1e-4:
        print("NCCL did not use Rondo" if not used else "the losses differ by %g" % error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(rank_main() if sys.argv[1] == "rank" else main())
