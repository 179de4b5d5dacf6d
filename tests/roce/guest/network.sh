# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced by the agent. What both kinds of network have in common. Host H has on rail R the address
# 10.99.R.(H+1), with ROCE_IPV6 also fd99:0:0:R::(H+1), and the Ethernet address 52:54:00:KIND:R:H.
# The functions that name something leave it in a variable, because a subshell is slow here.

address_of() { # HOST RAIL -> v4 v6
    v4=10.99.$2.$(($1 + 1))
    printf -v v6 'fd99:0:0:%x::%x' "$2" $(($1 + 1))
}
mac_of() { # HOST RAIL KIND -> mac
    printf -v mac '52:54:00:%02x:%02x:%02x' "$3" "$2" "$1"
}

set_sysctl() { # NAME VALUE, with slashes
    echo "$2" >"/proc/sys/$1" || bad "cannot set $1 to $2"
}

network_common() {
    local host rail name v4 v6
    set_sysctl net/core/rmem_max 67108864
    set_sysctl net/core/wmem_max 67108864
    set_sysctl net/core/rmem_default 16777216
    set_sysctl net/core/netdev_max_backlog 20000
    set_sysctl net/core/devconf_inherit_init_net 1 # namespaces that are made later begin with these settings
    for name in all default; do
        set_sysctl net/ipv4/conf/$name/rp_filter 0
        # Without IPv6 a RoCE port has few GIDs; with it there is something to choose.
        set_sysctl net/ipv6/conf/$name/disable_ipv6 $((1 - ROCE_IPV6))
        set_sysctl net/ipv6/conf/$name/accept_dad 0
    done
    {
        echo "127.0.0.1 localhost"
        for ((rail = 0; rail < ROCE_RAILS; rail++)); do
            for ((host = 0; host < ROCE_HOSTS; host++)); do
                name=node$host
                ((rail == 0)) || name+=-$rail
                address_of $host $rail
                echo "$v4 $name"
            done
        done
    } >/etc/hosts
}

# address_lines DEVICE HOST RAIL KIND: for 'ip -batch', the addresses, and everybody else's as static
# neighbours, so that nothing waits for address resolution
address_lines() {
    local device=$1 host=$2 rail=$3 kind=$4 other v4 v6 mac
    address_of "$host" "$rail"
    echo "link set $device mtu $ROCE_MTU up"
    echo "addr add $v4/24 dev $device"
    ((ROCE_IPV6 == 0)) || echo "addr add $v6/64 dev $device nodad"
    for ((other = 0; other < ROCE_HOSTS; other++)); do
        ((other != host)) || continue
        address_of $other "$rail"
        mac_of $other "$rail" "$kind"
        echo "neigh replace $v4 lladdr $mac dev $device nud permanent"
        ((ROCE_IPV6 == 0)) || echo "neigh replace $v6 lladdr $mac dev $device nud permanent"
    done
}

# batch PROGRAM [OPTION…]: feeds it the lines of standard input
batch() {
    local said
    cat >/run/batch
    said=$("$@" -b /run/batch 2>&1) || bad "'$*': ${said//$'\n'/ }"
}

# impairment DEVICE: for 'tc -batch', loss, delay and order of what leaves by it
impairment() {
    [ -z "$ROCE_NETEM" ] || echo "qdisc add dev $1 root netem limit 20000 $ROCE_NETEM"
}
