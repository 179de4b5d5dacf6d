#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Compares the functions of transport/cuda/driver.h with those of NVIDIA's cuda.h: the symbol that the header makes of
the name (its version suffix), and the type of every parameter.

    functions.py COMPILER CUDA_INCLUDE SOURCE_ROOT
"""
import re
import subprocess
import sys

# Later versions that are only another parameter list or other checks: drivers export both, and the older one is in
# more drivers.
OLDER = {'cuEventElapsedTime': 'cuEventElapsedTime_v2'}

HANDLES = {'CUresult': 'rdi_cu_result', 'CUdevice': 'rdi_cu_device', 'CUdevice_v1': 'rdi_cu_device',
           'CUdeviceptr': 'rdi_cu_ptr', 'CUdeviceptr_v2': 'rdi_cu_ptr', 'CUcontext': 'rdi_cu_ctx',
           'CUstream': 'rdi_cu_stream', 'CUevent': 'rdi_cu_event', 'CUmodule': 'rdi_cu_module',
           'CUfunction': 'rdi_cu_function', 'CUmemGenericAllocationHandle': 'rdi_cu_mem',
           'CUuuid': 'rdi_cu_uuid', 'CUipcMemHandle': 'rdi_cu_ipc_mem',
           'CUstreamBatchMemOpParams': 'rdi_cu_memop', 'CUmemAllocationProp': 'rdi_cu_allocation',
           'CUmemAccessDesc': 'rdi_cu_access', 'cuuint32_t': 'uint32_t', 'cuuint64_t': 'uint64_t'}


def preprocess(compiler, text, *flags):
    return subprocess.run([compiler, '-E', '-P', '-x', 'c', *flags, '-'], input=text, text=True,
                          check=True, stdout=subprocess.PIPE).stdout


def parameters(text):
    """Types, without names, qualifiers that are no part of the ABI, and spaces."""
    out = []
    for p in text.split(','):
        p = p.replace('const', ' ').replace('*', ' * ')
        p = re.sub(r'\bunsigned long long\b|\bunsigned __int64\b', 'uint64_t', p)
        p = re.sub(r'\bunsigned int\b', 'unsigned', p)
        words = p.split()
        if words == ['void']:
            continue
        if words[0] == 'unsigned' and len(words) > 1 and words[1] == 'char':
            words[:2] = ['uchar']
        kind, stars = words[0], words.count('*')
        kind = HANDLES.get(kind, kind)
        kind = {'unsigned': 'uint32_t'}.get(kind, kind)
        out.append(kind + '*' * stars)
    return out


def same(ours, theirs, enums):
    stars = theirs.count('*')
    if theirs.rstrip('*') in enums:
        theirs = 'int' + '*' * stars
    return ours == theirs


def main():
    compiler, include, root = sys.argv[1:]
    header = preprocess(compiler, '#include <cuda.h>\n', '-I' + include)
    theirs = {m[1]: m[2] for m in re.finditer(r'\bCUresult\s+(cu\w+)\s*\(([^;{}]*)\)\s*;', header)}
    enums = set(re.findall(r'\benum\s+\w+\s*\{[^}]*\}\s*(\w+)\s*;', header))
    table = preprocess(compiler, '#include "transport/cuda/driver.h"\n'
                       '#define SHOW(need, name, symbol, arguments) @ symbol arguments @\n'
                       'RDI_CUDA_FUNCTIONS(SHOW)\n', '-I' + root)
    ours = {m[1]: m[2] for m in re.finditer(r'@\s*(cu\w+)\s*\(([^@]*)\)\s*@', table)}
    if len(ours) < 50 or len(theirs) < 200:
        sys.exit(f'only {len(ours)} functions of ours and {len(theirs)} of cuda.h were understood')

    bases = {symbol: re.sub(r'_v\d+$', '', symbol) for symbol in ours}
    marks = ''.join(f'@{i} {base}\n' for i, base in enumerate(bases.values()))
    named = preprocess(compiler, '#include <cuda.h>\n' + marks, '-I' + include)
    current = dict(re.findall(r'@(\d+) (\w+)', named))

    wrong = 0
    for i, (symbol, base) in enumerate(bases.items()):
        now = current[str(i)]
        if symbol != now and OLDER.get(symbol) != now:
            print(f'{symbol}: cuda.h calls it {now}')
            wrong += 1
        declared = theirs.get(now)
        if declared is None:
            print(f'{symbol}: cuda.h does not declare {now}')
            wrong += 1
            continue
        a, b = parameters(ours[symbol]), parameters(declared)
        if len(a) != len(b) or not all(same(x, y, enums) for x, y in zip(a, b)):
            print(f'{symbol}: ({", ".join(a)}) here, ({", ".join(b)}) in cuda.h')
            wrong += 1
    print(f'{len(ours)} functions, {wrong} differ')
    sys.exit(wrong != 0)


main()
