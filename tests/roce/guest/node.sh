# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced by the agent. One machine is one host: ethR is its port on rail R. Cables and cuts are QEMU's and
# the switch's business.
# shellcheck disable=SC2154  # node: the agent's

network_up() {
    local rail
    {
        echo "link set lo up"
        for ((rail = 0; rail < ROCE_RAILS; rail++)); do
            address_lines eth$rail "$node" $rail 0
        done
    } | batch ip
    for ((rail = 0; rail < ROCE_RAILS; rail++)); do
        echo "link add $ROCE_DRIVER$rail type $ROCE_DRIVER netdev eth$rail"
    done | batch rdma
    [ -z "$ROCE_NETEM" ] || for ((rail = 0; rail < ROCE_RAILS; rail++)); do
        impairment eth$rail
    done | batch tc
}

enter_host() {
    shift
    "$@"
}

host_link() { bad "no links of other hosts here"; }
host_cut() { bad "no links of other hosts here"; }
host_signal() { bad "no processes of other hosts here"; }
