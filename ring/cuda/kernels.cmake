# SPDX-License-Identifier: MIT
# The device's kernels as an image in the library: nvcc compiles ring/cuda/kernels.cu for several architectures, and a
# generated C file takes the result in. nvcc is needed for this only, and no CUDA library at all. Without nvcc the image
# is empty, which the library tells whoever asks for a device.
set(RONDO_CUDA AUTO CACHE STRING "CUDA kernels: ON, OFF, or AUTO: where nvcc works")
set_property(CACHE RONDO_CUDA PROPERTY STRINGS AUTO ON OFF)
set(RONDO_CUDA_ARCHS "" CACHE STRING
    "Compute capabilities to compile kernels for, as 80;90. Empty: 80;90;100;120, those that nvcc knows")
set(RONDO_CUDA_IMAGE "" CACHE FILEPATH "An image from another build of the same sources, instead of compiling")

# Sets `out` to the reason why nvcc cannot be used, or to nothing.
function(rondo_try_nvcc out)
    find_program(RONDO_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES bin)
    set(${out} "" PARENT_SCOPE)
    if(NOT RONDO_NVCC)
        set(${out} "nvcc is neither in PATH nor in CUDA_HOME/bin nor in /usr/local/cuda/bin" PARENT_SCOPE)
    elseif(NOT RONDO_NVCC_WORKS STREQUAL RONDO_NVCC)
        set(try ${PROJECT_BINARY_DIR}/cuda/try.cu)
        file(WRITE ${try} "#include <stdint.h>\n__global__ void f(uint32_t *p) { *p = 1; }\n")
        execute_process(COMMAND ${RONDO_NVCC} -ptx -o ${try}.ptx ${try}
            RESULT_VARIABLE failed OUTPUT_VARIABLE text ERROR_VARIABLE text)
        if(failed)
            set(${out} "${RONDO_NVCC} does not work: ${failed} ${text}" PARENT_SCOPE)
        else()
            set(RONDO_NVCC_WORKS ${RONDO_NVCC} CACHE INTERNAL "")
        endif()
    endif()
endfunction()

# Sets `out` to nvcc's -gencode options: code for each architecture, and PTX for those to come.
function(rondo_cuda_archs out)
    execute_process(COMMAND ${RONDO_NVCC} --list-gpu-arch OUTPUT_VARIABLE known)
    string(REGEX MATCHALL "[0-9]+" known "${known}")
    set(archs ${RONDO_CUDA_ARCHS})
    set(early "")
    set(late "")
    if(NOT archs)
        foreach(arch IN ITEMS 80 90 100 120)
            if(arch IN_LIST known)
                list(APPEND archs ${arch})
            endif()
        endforeach()
    endif()
    foreach(arch IN LISTS archs)
        if(NOT arch IN_LIST known OR arch LESS 80)
            message(FATAL_ERROR "RONDO_CUDA_ARCHS: ${arch} is below 80, or ${RONDO_NVCC} does not know it; "
                "it knows ${known}")
        endif()
        if(arch LESS 89)
            list(APPEND early sm_${arch})
        else()
            list(APPEND late sm_${arch})
        endif()
    endforeach()
    if(NOT archs)
        message(FATAL_ERROR "${RONDO_NVCC} knows none of 80, 90, 100 and 120; set RONDO_CUDA_ARCHS to some of ${known}")
    endif()
    # The front end takes as long as the rest, and the sources know two kinds of devices: before and since 8.9, which
    # has instructions for 8-bit floats.
    set(options "")
    if(early)
        list(JOIN early "," code)
        list(APPEND options -gencode "arch=compute_80,code=[${code},compute_80]")
        set(ptx "")
    else()
        set(ptx ,compute_89)
    endif()
    if(late)
        list(JOIN late "," code)
        list(APPEND options -gencode "arch=compute_89,code=[${code}${ptx}]")
    endif()
    list(JOIN archs " " shown)
    message(STATUS "CUDA kernels for compute capability ${shown}, by ${RONDO_NVCC}")
    set(${out} ${options} PARENT_SCOPE)
endfunction()

# Makes ${image} from the sources.
function(rondo_compile_kernels image)
    rondo_cuda_archs(archs)
    execute_process(COMMAND ${RONDO_NVCC} --help OUTPUT_VARIABLE help)
    set(compress -Xfatbinary -compress-all)
    if(help MATCHES "-compress-mode")
        set(compress -compress-mode=size)
    endif()
    list(TRANSFORM cuda_sources PREPEND ${PROJECT_SOURCE_DIR}/ring/ OUTPUT_VARIABLE depends)
    add_custom_command(OUTPUT ${image}
        COMMAND ${RONDO_NVCC} -fatbin -I${PROJECT_SOURCE_DIR} ${archs} ${compress} --threads 0
            # The same bits as the host's.
            -fmad=false -ftz=false -prec-div=true
            $<$<BOOL:${RONDO_WERROR}>:-Werror> $<$<BOOL:${RONDO_WERROR}>:all-warnings>
            -o ${image} ${PROJECT_SOURCE_DIR}/ring/cuda/kernels.cu
        DEPENDS ${depends}
        COMMENT "Compiling CUDA kernels"
        COMMAND_EXPAND_LISTS VERBATIM)
endfunction()

if(NOT RONDO_CUDA MATCHES "^(AUTO|ON|OFF)$")
    message(FATAL_ERROR "RONDO_CUDA is '${RONDO_CUDA}'; it can be AUTO, ON or OFF")
endif()
set(cuda_sources cuda/kernels.cu cuda/body.h cuda/ops.h cuda/port.h cuda/step.h half.h fp8.h)
set(rondo_cuda_image "")
if(RONDO_CUDA_IMAGE AND NOT RONDO_CUDA STREQUAL OFF)
    if(NOT EXISTS ${RONDO_CUDA_IMAGE})
        message(FATAL_ERROR "RONDO_CUDA_IMAGE: there is no file ${RONDO_CUDA_IMAGE}")
    endif()
    set(rondo_cuda_image ${RONDO_CUDA_IMAGE})
elseif(NOT RONDO_CUDA STREQUAL OFF)
    rondo_try_nvcc(why)
    if(NOT why)
        set(rondo_cuda_image ${PROJECT_BINARY_DIR}/cuda/kernels.fatbin)
        rondo_compile_kernels(${rondo_cuda_image})
    elseif(RONDO_CUDA STREQUAL ON)
        message(FATAL_ERROR "RONDO_CUDA is ON, but ${why}. Install the CUDA toolkit, set CUDA_HOME or RONDO_NVCC, or "
            "say -DRONDO_CUDA=OFF")
    else()
        message(STATUS "No CUDA kernels: ${why}")
    endif()
endif()

# The C file that holds it.
if(rondo_cuda_image)
    set(RDI_IMAGE ${rondo_cuda_image})
    configure_file(${PROJECT_SOURCE_DIR}/ring/cuda/image.c.in ${PROJECT_BINARY_DIR}/cuda/image.c @ONLY)
    set_source_files_properties(${PROJECT_BINARY_DIR}/cuda/image.c PROPERTIES OBJECT_DEPENDS ${rondo_cuda_image})
else()
    file(CONFIGURE OUTPUT ${PROJECT_BINARY_DIR}/cuda/image.c CONTENT [=[
// Made by ring/cuda/kernels.cmake: this build has no CUDA kernels.
#include "transport/cuda/cuda.h"
const unsigned char rdi_cuda_image[1] = {0};
const uint64_t rdi_cuda_image_size = 0;
]=])
endif()
target_sources(rondo_objects PRIVATE ${PROJECT_BINARY_DIR}/cuda/image.c)
