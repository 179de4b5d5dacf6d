# SPDX-License-Identifier: MIT
"""The planted bugs. Each is what somebody could write who does not know the rule that it breaks.

An edit names a file below transport/verbs, a text that is in it exactly once, and what stands there instead.
`first` are the cases (suite.py) that look likeliest to find it; the others follow."""

from collections import namedtuple

Mutation = namedtuple("Mutation", "id breaks first edits")
ALL = []


def plant(name, breaks, first, *edits):
    ALL.append(Mutation(name, breaks, first.split(), edits))


# ---- Credit and slots ----------------------------------------------------------------------------

plant("credit-ignored", "a message is put without credit", "conform:credit.again test_verbs_link",
      ("tx.c", "link->posted >= link->credit || ", ""))
plant("credit-early", "credit for a slot is given when its message arrives, not when it is released",
      "conform:credit.* test_verbs_link",
      ("rx.c", ".imm_data = htonl((uint32_t)b->released)", ".imm_data = htonl((uint32_t)b->arrived)"))
plant("credit-kept", "credit for less than half of the slots is not told before sleep",
      "conform:credit.half conform:sleep.credit",
      ("tx.c", "return rdi_verbs_tell_credit(l);", "return 0;"))
plant("receives-not-reposted", "the receive of a stripe is not posted again", "conform:credit.again",
      ("rx.c", "    if (!q->error) {\n        rdi_verbs_qp_receive(q, 0, NULL, 0);\n    }\n", ""))
plant("slots-not-reposted", "mode send: a slot is not posted again when it is released",
      "test_verbs_rules test_verbs_link", ("rx.c", "            post_slot(l, seq + link->slots);\n", ""))
plant("credit-receives-not-reposted", "the sender's receive for credit is not posted again",
      "test_verbs_rules test_verbs_link",
      ("tx.c", "    if (!q->error) {\n        rdi_verbs_qp_receive(q, (uint32_t)wc->wr_id,",
       "    if (q->rq_size == 0) {\n        rdi_verbs_qp_receive(q, (uint32_t)wc->wr_id,"))
plant("early-arrival", "`arrived` passes a message when its first stripe is in",
      "test_verbs_link test_verbs_forged",
      ("rx.c", "if (in->seen == (1u << stripes) - 1) {", "if (in->seen != 0) {"))

# ---- Completions ---------------------------------------------------------------------------------

plant("opcode-before-status", "the opcode of a completion is used though its status is bad",
      "test_verbs_rules test_verbs_loss",
      ("cq.c", "bool receive = wc->wr_id & RDI_VERBS_RECV;",
       "bool receive = (wc->opcode & IBV_WC_RECV) != 0;"))
plant("imm-before-status", "a failed receive is taken for a message", "test_verbs_rules test_verbs_loss",
      ("cq.c", "if (wc->status != IBV_WC_SUCCESS) {", "if (wc->status != IBV_WC_SUCCESS && !receive) {"))
plant("never-signaled", "no message asks for a completion", "test_verbs_rules conform:sent.*",
      ("tx.c", "t.signaled = put->flags & RDI_PUT_ACK || last_credit || q->unsignaled + 1 >= l->period;",
       "t.signaled = q->sq_size == 0 && last_credit;"))
plant("ack-not-signaled", "RDI_PUT_ACK does not ask for a completion", "test_verbs_rules conform:sent.ack",
      ("tx.c", "put->flags & RDI_PUT_ACK || last_credit", "last_credit"))
plant("unsignaled-not-retired", "a completion retires only its own work request, not those before it",
      "test_verbs_rules test_verbs_link",
      ("qp.c", "    while (q->sq_head <= id) {", "    q->sq_head = id;\n    while (q->sq_head <= id) {"))
plant("sent-at-post", "`sent` passes a message when it is posted", "conform:sent.scribble test_verbs_link",
      ("tx.c", "    link->posted++;\n", "    link->posted++;\n    link->sent = link->posted;\n"))
plant("sent-at-first-stripe", "a message is sent when one of its stripes is",
      "test_verbs_rules conform-weather",
      ("tx.c", "    if (--o->left == 0) {\n", "    o->left = 0;\n    if (o->left == 0) {\n"))
plant("queue-overrun", "a full send queue is not noticed", "test_verbs_rules conform:message.flood",
      ("qp.c", "return q->sq_tail - q->sq_head + count < q->sq_size;", "return count < q->sq_size;"),
      ("tx.c", " || link->posted - link->sent >= link->slots || l->broken", " || l->broken"))
plant("flag-before-data", "mode split: the word that tells of a message goes before the message",
      "test_verbs_link conform-weather",
      ("tx.c", "    wr[0].opcode = IBV_WR_RDMA_WRITE;\n",
       "    wr[1] = wr[0];\n    wr[1].opcode = IBV_WR_RDMA_WRITE;\n    wr[0].num_sge = 0;\n"
       "    wr[0].sg_list = NULL;\n    wr[0].send_flags = 0;\n"))

# ---- Memory --------------------------------------------------------------------------------------

plant("header-reused", "two messages under way share the room for their header", "test_verbs_link",
      ("tx.c", "s->head = l->memory + (size_t)slot * RDI_VERBS_HEAD;",
       "s->head = l->memory + (size_t)(slot & ~1u) * RDI_VERBS_HEAD;"))
plant("staging-reused", "two copied messages under way share their room", "test_verbs_link conform:sent.*",
      ("tx.c", "uint8_t *to = l->staging + (size_t)slot * l->base.max_msg;",
       "uint8_t *to = l->staging + (size_t)(slot & ~1u) * l->base.max_msg;"))
plant("slot-reused-unsent", "a message takes the place of one that is not known as sent",
      "test_verbs_rules",
      ("tx.c", " || link->posted - link->sent >= link->slots || l->broken", " || l->broken"))
plant("mr-given-back", "registered memory is given back when a message is posted, not when it is sent",
      "test_verbs_rules conform:memory.*",
      ("tx.c", "    link->posted++;\n",
       "    unsigned left = o->left;\n    forget(l, o);\n    o->left = left;\n    link->posted++;\n"))
plant("mr-stale", "a registration is used although its memory was freed",
      "test_verbs_mr conform:memory.*",
      ("mr.c", "    if (frees == r->mr_frees) {", "    if (frees == r->mr_frees || r->nmrs > 0) {"))
plant("mr-before-qp", "memory is deregistered while queue pairs still use it", "test_verbs_link",
      ("link.c", "    rdi_verbs_link_drop(l);\n    rdi_verbs_close_inner(l, bye);\n"
       "    rdi_verbs_link_state(l, RDI_LINK_CLOSED);\n",
       "    for (unsigned i = 0; i < n->nrails; i++) {\n        deregister(n, &l->mr[i]);\n    }\n"
       "    rdi_verbs_link_drop(l);\n    rdi_verbs_close_inner(l, bye);\n"
       "    rdi_verbs_link_state(l, RDI_LINK_CLOSED);\n"))
plant("wrong-lkey", "the key of another device is used for the payload", "test_verbs_link",
      ("tx.c", "                                    s->lkey[q->rail]};",
       "                                    s->lkey[0] != 0 ? s->lkey[0] : s->lkey[q->rail]};"))
plant("inline-limit", "inline data is limited by what was asked for, not by what was granted",
      "test_verbs_link test_verbs_rules",
      ("tx.c", "t->len <= q->inline_max && !touches",
       "t->len <= RDI_VERBS_HEADER + 256 && !touches"))
plant("no-remote-write", "the receiver's queue pair does not permit writing", "test_verbs_link",
      ("qp.c", "(written ? IBV_ACCESS_REMOTE_WRITE : 0u)", "(written ? 0u : 0u)"))
plant("write-in-send-mode", "mode send: peers may write into the slots", "test_verbs_forged",
      ("qp.c", "bool written = !l->base.sender && l->mode != RDI_VERBS_SEND;",
       "bool written = !l->base.sender;"),
      ("link.c", "!l->base.sender && l->mode != RDI_VERBS_SEND ? IBV_ACCESS",
       "!l->base.sender ? IBV_ACCESS"))

# ---- What a peer says ----------------------------------------------------------------------------

plant("length-unchecked", "the receiver believes the length in a header", "test_verbs_forged",
      ("rx.c", "h.len > l->base.max_msg || ", ""))
plant("send-length-unchecked", "mode send: the length in a header may differ from what came",
      "test_verbs_forged",
      ("rx.c", " || wc->byte_len < sizeof h ||\n        wc->byte_len != sizeof h + (uint64_t)h.len", ""))
plant("beyond-credit", "a message that has no credit is taken", "test_verbs_forged test_verbs_wire",
      ("wire.c", "return *index < *stripes && *seq < limit;", "return *index < *stripes || *seq < limit;"))
plant("stripe-twice", "a stripe that comes a second time is taken", "test_verbs_forged",
      ("rx.c", "in->seen & 1u << index || ", ""))
plant("release-unchecked", "the sender believes that messages were released that it never sent",
      "test_verbs_forged",
      ("tx.c", "if (released < known || released > b->posted) {", "if (released < known) {"))

# ---- Set-up --------------------------------------------------------------------------------------

plant("mtu-own", "the sender's own MTU is used, not the smaller of both",
      "test_verbs_rules test_verbs_address",
      ("pairs.c", ".mtu = a->mtu < b->mtu ? a->mtu : b->mtu,", ".mtu = swapped ? b->mtu : a->mtu,"))
plant("mtu-not-agreed", "the sender does not take the MTU that the receiver grants", "test_verbs_rules",
      ("offer.c", "        l->mtu[i] = m->pairs[i].mtu;\n", ""))
plant("gid-fixed", "GID index 0 is used, whatever is there", "test_verbs_link",
      ("qp.c", "(uint8_t)n->self.rails[p->mine].gids[p->my_gid].index", "0"))
plant("no-grh", "an Ethernet path without a global route", "test_verbs_link",
      ("qp.c", "ah->is_global = 1;", "ah->is_global = 0;"))
plant("hop-limit", "packets may not be routed",
      "test_verbs_link", ("qp.c", "#define HOP_LIMIT 255", "#define HOP_LIMIT 1"))
plant("psn-mixed-up", "a queue pair expects its own first packet number, not the peer's", "test_verbs_link",
      ("qp.c", ".rq_psn = q->peer_psn", ".rq_psn = q->psn"))
plant("never-times-out", "a queue pair waits for its acknowledgement for ever", "test_verbs_loss",
      ("qp.c", ".timeout = n->timeout", ".timeout = 0"))
plant("rnr-not-repeated", "a receiver that is not ready breaks the path", "test_verbs_rules",
      ("qp.c", "#define RNR_FOREVER 7", "#define RNR_FOREVER 0"))
plant("no-retries", "one lost packet breaks the path", "test_verbs_rules",
      ("qp.c", ".retry_cnt = (uint8_t)n->retries", ".retry_cnt = 0"))
plant("cq-overbooked", "queue pairs are made that the completion queue has no room for",
      "test_verbs_fabric",
      ("qp.c", "if (q->sq_size + q->rq_size > r->cq_size - r->cq_used) {",
       "if (q->sq_size > r->cq_size) {"))

# ---- Loss and reset ------------------------------------------------------------------------------

plant("not-rewound", "after a reset the numbering goes on where it was", "test_verbs_loss",
      ("offer.c", "b->posted = b->sent = l->granted_arrived;", "b->sent = b->posted;"))
plant("not-drained", "a new epoch begins before the completions of the old one are counted",
      "test_verbs_rules test_verbs_loss",
      ("grant.c", "    if (is_drained(l)) {\n", "    if (l->nqps <= RDI_VERBS_LINK_QPS) {\n"))
plant("old-rkey", "after a reset the keys of the first grant are used", "test_verbs_loss test_verbs_rules",
      ("offer.c", "l->rkey[i] = m->pairs[i].rkey;",
       "l->rkey[i] = l->was_up ? l->rkey[i] : m->pairs[i].rkey;"))
plant("half-kept", "stripes of the old epoch count in the new one", "test_verbs_loss test_verbs_rules",
      ("grant.c", "        in->seen = 0;\n", ""))
plant("flush-overwrites", "the flush of a queue pair hides the cause before it", "test_verbs_loss",
      ("cq.c", "    if (l->cause_known) {\n        return;\n    }\n", ""),
      ("cq.c", "        note_broken(q);\n        return;\n    }\n    rdi_verbs_broken(q, \"%s (status",
       "        note_broken(q);\n    }\n    rdi_verbs_broken(q, \"%s (status"))
plant("flush-is-cause", "the flush of a queue pair is taken for the cause at once", "test_verbs_rules",
      ("cq.c", "        note_broken(q);\n        return;\n    }\n    rdi_verbs_broken(q, \"%s (status",
       "        note_broken(q);\n    }\n    rdi_verbs_broken(q, \"%s (status"))
plant("bye-at-once", "the receiver's link is closed before the last messages came",
      "test_verbs_link conform:peer.bye",
      ("link.c", "} else if (l->base.arrived >= l->bye_at) {", "} else {"))

# ---- Device memory -------------------------------------------------------------------------------

DEVICE = "test_verbs_device_link test_verbs_device_memory"
plant("device-inline", "small payloads in device memory are inline: the processor reads them", DEVICE,
      ("tx.c", "t->len <= q->inline_max && !touches", "t->len <= q->inline_max && (!touches || touches)"))
plant("device-small-copied", "small payloads in device memory are copied behind the header", DEVICE,
      ("tx.c", "if (put->flags & RDI_PUT_DEVICE && put->len > 0) {",
       "if (put->flags & RDI_PUT_DEVICE && put->len > RDI_VERBS_SMALL) {"))
plant("device-one-slot", "all payloads go to the first slot of the device memory", DEVICE,
      ("tx.c", "l->remote_payload + slot * l->base.max_msg", "l->remote_payload + 0 * slot"))
plant("device-one-receive", "two stripes of a message on one queue pair find one receive", DEVICE,
      ("rx.c", "i < l->base.slots * (l->apart ? 2 : 1)", "i < l->base.slots"))
plant("device-header-alone", "a header that promises a payload is a message by itself", DEVICE,
      ("rx.c", "(l->apart && (h.len > 0) != (in->stripes > 1))", "(l->apart && in->stripes == 0)"))
plant("device-slots-left", "the slots in device memory stay registered when their link is closed", DEVICE,
      ("link.c", "        deregister(n, &l->payload_mr[i]);\n", ""))
plant("device-source-left", "device memory stays registered when it was taken back", DEVICE,
      ("net.c", "        rdi_verbs_mr_sweep(&n->rails[i]);\n", "        (void)n;\n"))
plant("device-any-address", "device memory is registered by its address though nothing makes that known", DEVICE,
      ("direct.c", "    if (!rdi_verbs_peermem()) {", "    if (!rdi_verbs_peermem() && err == 0) {"))

# ---- Events and sleep ----------------------------------------------------------------------------

plant("port-ignored", "an event of another port takes this one down", "verbs_rail_roce",
      ("rail.c", "    if (port != r->info.port) {\n        return;\n    }\n", "    (void)port;\n"))
plant("port-down-ignored", "nothing is done about a port that is down", "test_verbs_loss",
      ("cq.c", "} else if (r->down && !was_down) {",
       "} else if (r->down && !was_down && n->nrails == 0) {"))
plant("no-second-poll", "sleep without a look at what came before the request for a notification",
      "conform:sleep.* test_verbs_wake",
      ("net.c", "if (something || rdi_verbs_poll(n) > 0 || n->nbroken > 0) {",
       "if (something || n->nbroken > 0) {"))
plant("not-armed-again", "notification is asked for once only", "conform:sleep.* test_verbs_wake",
      ("net.c", "        (void)ibv_req_notify_cq(n->rails[i].cq, 0);\n",
       "        if (n->rails[i].events == 0) {\n            (void)ibv_req_notify_cq(n->rails[i].cq, 0);\n"
       "        }\n"))
plant("events-not-acknowledged", "completion events are never acknowledged",
      "test_verbs_wake test_verbs_link",
      ("rail.c", "        if (r->events > 0) { // the destruction",
       "        if (r->fork_unsafe) { // the destruction"))
plant("async-not-acknowledged", "asynchronous events are never acknowledged",
      "test_verbs_loss test_verbs_device",
      ("rail.c", "        r->v->ack_async_event(&e);\n", ""))
plant("events-left", "notifications stay in their channel", "conform:sleep.quiet",
      ("net.c", "    rdi_verbs_drain_channels(n);\n    n->inner->ops->disarm(n->inner);",
       "    n->inner->ops->disarm(n->inner);"),
      ("net.c", "        rdi_verbs_drain_channels(n);\n        moved += rdi_verbs_async(n);",
       "        moved += rdi_verbs_async(n);"))
