// SPDX-License-Identifier: MIT
// The XML of a topology, from anybody: a strict reader of the part of XML that hwloc writes, into a flat table. hwloc's
// own importer trusts what it reads (it asserts, and allocates what numbers in the file say), so it never sees a file.
#ifndef RDI_TOPO_XML_H
#define RDI_TOPO_XML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RDI_XML_BYTES ((size_t)64 << 20)
#define RDI_XML_ELEMENTS 262144
#define RDI_XML_EACH 64 // attributes of an element
#define RDI_XML_DEPTH 64
#define RDI_XML_NONE UINT32_MAX

struct rdi_xml_attribute {
    const char *name, *value; // the value decoded
};

struct rdi_xml_element {
    const char *name;
    uint32_t parent;     // RDI_XML_NONE: the root
    uint32_t attributes; // the first of
    uint32_t count;
    uint32_t end; // the first element behind it that is not inside it
    uint32_t line;
};

struct rdi_xml {
    char *text;                       // that all names and values lie in
    struct rdi_xml_element *elements; // in the order of the file; [0] is the root
    struct rdi_xml_attribute *attributes;
    size_t nelements, nattributes;
};

// Text of `len` bytes, without a NUL. False: `why` says what is wrong, with the line; nothing is to be freed.
bool rdi_xml_read(struct rdi_xml *x, const char *text, size_t len, char *why, size_t cap);
void rdi_xml_free(struct rdi_xml *x);

// The value of an attribute; NULL if element e has none of this name.
const char *rdi_xml_get(const struct rdi_xml *x, uint32_t e, const char *name);

#endif
