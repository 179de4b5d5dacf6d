# shellcheck shell=bash
# SPDX-License-Identifier: MIT
# Sourced by the agent. One machine plays several hosts, H = 0, 1, …, on one bridge for each rail R:
#
#   initial network namespace                 namespace hostH
#     nHrR  rxeHrR, address of the host         nHrR  the same name and address, for TCP
#       |                                         |
#     bHrR ---------- bridge brR ------------- cHrR
#
# rxe (Linux 6.1 at least) routes and receives in the initial namespace only, so its devices have to lie
# there; processes in other namespaces may use them all the same. Rules by source address keep packets between two
# addresses of this machine on the wire. The two ends of one name have different Ethernet addresses and know
# only those of their own kind.

# For 'ip -batch' in the initial namespace: the cables of a host on a rail, and its routes.
host_lines() {
    local host=$1 rail=$2 at=$1r$2 table=$((100 + $2 * 64 + $1)) v4 v6 mac
    mac_of "$host" "$rail" 1
    echo "link add n$at address $mac type veth peer name b$at"
    mac_of "$host" "$rail" 2
    echo "link add c$at type veth peer name n$at address $mac netns host$host"
    echo "link set b$at mtu $ROCE_MTU master br$rail up"
    echo "link set c$at mtu $ROCE_MTU master br$rail up"
    address_lines "n$at" "$host" "$rail" 1
    address_of "$host" "$rail"
    echo "route add 10.99.$rail.0/24 dev n$at src $v4 table $table"
    echo "rule add pref $((10 + host)) iif lo from $v4 to 10.99.$rail.0/24 lookup $table"
}

initial_lines() {
    local host rail
    echo "link set lo up"
    for ((rail = 0; rail < ROCE_RAILS; rail++)); do
        echo "link add br$rail type bridge"
        echo "link set br$rail mtu $ROCE_MTU up"
        for ((host = 0; host < ROCE_HOSTS; host++)); do
            host_lines $host $rail
        done
    done
    rules_last
}

# The rules of the hosts go before the one that keeps local addresses on the loopback device.
rules_last() {
    echo "rule add pref 1000 lookup local"
    echo "rule del pref 0"
}

# For 'ip -6 -batch'.
initial_lines6() {
    local host rail table v4 v6
    for ((rail = 0; rail < ROCE_RAILS; rail++)); do
        for ((host = 0; host < ROCE_HOSTS; host++)); do
            table=$((100 + rail * 64 + host))
            address_of $host $rail
            echo "route add fd99:0:0:$rail::/64 dev n${host}r$rail table $table"
            echo "rule add pref $((10 + host)) iif lo from $v6 to fd99:0:0:$rail::/64 lookup $table"
        done
    done
    rules_last
}

network_up() {
    local host rail
    set_sysctl net/ipv4/conf/default/accept_local 1
    set_sysctl net/ipv4/conf/all/accept_local 1
    for ((host = 0; host < ROCE_HOSTS; host++)); do
        echo "netns add host$host"
    done | batch ip
    initial_lines | batch ip
    ((ROCE_IPV6 == 0)) || initial_lines6 | batch ip -6
    for ((host = 0; host < ROCE_HOSTS; host++)); do
        {
            echo "link set lo up"
            for ((rail = 0; rail < ROCE_RAILS; rail++)); do
                address_lines "n${host}r$rail" $host $rail 2
            done
        } | batch ip -n "host$host"
    done
    for ((host = 0; host < ROCE_HOSTS; host++)); do
        for ((rail = 0; rail < ROCE_RAILS; rail++)); do
            echo "link add rxe${host}r$rail type rxe netdev n${host}r$rail"
        done
    done | batch rdma
    [ -z "$ROCE_NETEM" ] || impair_all
}

impair_all() {
    local host rail
    for ((host = 0; host < ROCE_HOSTS; host++)); do
        for ((rail = 0; rail < ROCE_RAILS; rail++)); do
            impairment "n${host}r$rail"
        done >/run/impairment.$host
        batch tc <"/run/impairment.$host"
        batch tc -n "host$host" <"/run/impairment.$host"
    done
}

# The mounts stay: /sys shows the RDMA devices. The name of the host is its own.
enter_host() {
    local host=$1
    shift
    nsenter --net="/run/netns/host$host" unshare --uts \
        sh -c "echo node$host >/proc/sys/kernel/hostname && exec \"\$@\"" sh "$@"
}

# A port of the bridge that is down: the other end of the cable loses its carrier.
host_link() {
    printf 'link set %s%dr%d %s\n' b "$1" "$2" "$3" c "$1" "$2" "$3" | batch ip
}

# The bridge drops what comes from and goes to the host; carrier stays.
host_cut() {
    local state=3 # forwarding
    [ "$3" = off ] || state=0
    printf 'link set dev %s%dr%d state %d\n' b "$1" "$2" $state c "$1" "$2" $state | batch bridge
}

host_signal() {
    local pids
    mapfile -t pids < <(ip netns pids "host$1")
    ((${#pids[@]} == 0)) || kill -s "$2" "${pids[@]}"
}
