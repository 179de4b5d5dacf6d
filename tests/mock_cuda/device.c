// SPDX-License-Identifier: MIT
// Devices. A device is told apart by its physical number: name, UUID and PCI address follow from it, so that all
// processes of a host speak of the same devices, whatever CUDA_VISIBLE_DEVICES makes of their ordinals.
#include "tests/mock_cuda/mock.h"

#include <stdio.h>
#include <string.h>

static bool is_device(rdi_cu_device d) { return d >= 0 && d < mc_config.devices; }

rdi_cu_result cuDeviceGetCount(int *n) {
    MC_ENTER(cuDeviceGetCount, MC_NEED_INIT);
    if (!n)
        return RDI_CU_INVALID_VALUE;
    *n = mc_config.devices;
    return RDI_CU_OK;
}

rdi_cu_result cuDeviceGet(rdi_cu_device *device, int ordinal) {
    MC_ENTER(cuDeviceGet, MC_NEED_INIT);
    if (!device)
        return RDI_CU_INVALID_VALUE;
    if (!is_device(ordinal))
        return RDI_CU_INVALID_DEVICE;
    *device = ordinal;
    return RDI_CU_OK;
}

rdi_cu_result cuDeviceGetName(char *name, int cap, rdi_cu_device device) {
    MC_ENTER(cuDeviceGetName, MC_NEED_INIT);
    if (!is_device(device))
        return RDI_CU_INVALID_DEVICE;
    if (!name || cap <= 0)
        return RDI_CU_INVALID_VALUE;
    snprintf(name, (size_t)cap, "Mock GPU %d", mc_config.physical[device]);
    return RDI_CU_OK;
}

rdi_cu_result cuDeviceGetUuid_v2(rdi_cu_uuid *uuid, rdi_cu_device device) {
    MC_ENTER(cuDeviceGetUuid_v2, MC_NEED_INIT);
    if (!is_device(device))
        return RDI_CU_INVALID_DEVICE;
    if (!uuid)
        return RDI_CU_INVALID_VALUE;
    static const uint8_t bytes[16] = {0x4d, 0x6f, 0x63, 0x6b, 0x2d, 0x47, 0x50, 0x55, 0x80, 0x01};
    memcpy(uuid->bytes, bytes, sizeof bytes);
    uuid->bytes[15] = (uint8_t)mc_config.physical[device];
    return RDI_CU_OK;
}

rdi_cu_result cuDeviceGetPCIBusId(char *id, int cap, rdi_cu_device device) {
    MC_ENTER(cuDeviceGetPCIBusId, MC_NEED_INIT);
    if (!is_device(device))
        return RDI_CU_INVALID_DEVICE;
    if (!id || cap < 13)
        return RDI_CU_INVALID_VALUE;
    // A domain that no machine has: nothing of the real one's PCI tree is taken for this device.
    snprintf(id, (size_t)cap, "C0DA:%02X:00.0", 0x10 + mc_config.physical[device]);
    return RDI_CU_OK;
}

rdi_cu_result cuDeviceTotalMem_v2(size_t *bytes, rdi_cu_device device) {
    MC_ENTER(cuDeviceTotalMem_v2, MC_NEED_INIT);
    if (!is_device(device))
        return RDI_CU_INVALID_DEVICE;
    if (!bytes)
        return RDI_CU_INVALID_VALUE;
    *bytes = (size_t)mc_config.attributes[device].memory_mib << 20;
    return RDI_CU_OK;
}

rdi_cu_result cuDeviceGetAttribute(int *value, int what, rdi_cu_device device) {
    MC_ENTER(cuDeviceGetAttribute, MC_NEED_INIT);
    if (!is_device(device))
        return RDI_CU_INVALID_DEVICE;
    if (!value)
        return RDI_CU_INVALID_VALUE;
    const struct mc_attributes *a = &mc_config.attributes[device];
    switch (what) {
    case RDI_CU_ATTR_MULTIPROCESSORS:
        *value = a->multiprocessors;
        break;
    case RDI_CU_ATTR_INTEGRATED:
        *value = a->integrated;
        break;
    case RDI_CU_ATTR_UNIFIED_ADDRESSING:
        *value = 1;
        break;
    case RDI_CU_ATTR_COMPUTE_MAJOR:
        *value = a->major;
        break;
    case RDI_CU_ATTR_COMPUTE_MINOR:
        *value = a->minor;
        break;
    case RDI_CU_ATTR_CAN_FLUSH_REMOTE_WRITES:
        *value = a->can_flush;
        break;
    case RDI_CU_ATTR_VMM:
        *value = a->vmm;
        break;
    case RDI_CU_ATTR_POSIX_FD:
        *value = a->vmm && a->posix_fd;
        break;
    case RDI_CU_ATTR_GDR_WITH_VMM:
        *value = a->gdr && a->gdr_vmm;
        break;
    case RDI_CU_ATTR_GDR:
        *value = a->gdr;
        break;
    case RDI_CU_ATTR_GDR_FLUSH_OPTIONS:
        *value = a->flush_options;
        break;
    case RDI_CU_ATTR_GDR_ORDERING:
        *value = a->ordering;
        break;
    case RDI_CU_ATTR_DMA_BUF:
        *value = a->dmabuf;
        break;
    default:
        return RDI_CU_INVALID_VALUE; // also what a driver older than the attribute says
    }
    return RDI_CU_OK;
}

// A device is not its own peer.
static bool peers(int from, int to) {
    return from != to && mc_config.attributes[from].peer && mc_config.attributes[to].peer;
}

rdi_cu_result cuDeviceCanAccessPeer(int *yes, rdi_cu_device from, rdi_cu_device to) {
    MC_ENTER(cuDeviceCanAccessPeer, MC_NEED_INIT);
    if (!is_device(from) || !is_device(to))
        return RDI_CU_INVALID_DEVICE;
    if (!yes)
        return RDI_CU_INVALID_VALUE;
    *yes = peers(from, to);
    return RDI_CU_OK;
}

rdi_cu_result cuCtxEnablePeerAccess(rdi_cu_ctx peer, unsigned flags) {
    MC_ENTER(cuCtxEnablePeerAccess, MC_NEED_CTX);
    struct mc_ctx *c = mc_ctx_current(), *p = mc_ctx_of(peer);
    if (!p || p == c)
        return RDI_CU_INVALID_CONTEXT;
    if (flags)
        return RDI_CU_INVALID_VALUE;
    if (!peers(c->ordinal, p->ordinal))
        return RDI_CU_PEER_ACCESS_UNSUPPORTED;
    uint32_t bit = 1u << p->ordinal;
    return atomic_fetch_or(&c->peers, bit) & bit ? RDI_CU_PEER_ACCESS_ALREADY_ENABLED : RDI_CU_OK;
}
