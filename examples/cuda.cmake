# SPDX-License-Identifier: MIT
# train_gpt's kernels, under the same options as the library's (ring/cuda/kernels.cmake): gpt_image is their fatbin as an
# object, with the symbol gpt_kernels_image. Without it train_gpt is built all the same, and says so when it is asked for
# a GPU.
if(NOT TARGET gpt_objects)
    return()
endif()
target_link_libraries(gpt_objects PUBLIC ${CMAKE_DL_LIBS})

set(GPT_CUDA_IMAGE "" CACHE FILEPATH "As RONDO_CUDA_IMAGE, of the kernels of train_gpt")
if(RONDO_CUDA STREQUAL OFF)
    return()
elseif(GPT_CUDA_IMAGE)
    set(gpt_fatbin ${GPT_CUDA_IMAGE})
else()
    rondo_try_nvcc(why)
    if(why)
        return()
    endif()
    rondo_cuda_archs(gpt_archs)
    set(gpt_fatbin ${PROJECT_BINARY_DIR}/cuda/gpt_kernels.fatbin)
    set(gpt_kernels ${PROJECT_SOURCE_DIR}/examples/gpt_kernels)
    add_custom_command(OUTPUT ${gpt_fatbin}
        COMMAND ${RONDO_NVCC} -fatbin ${gpt_archs} --threads 0
            $<$<BOOL:${RONDO_WERROR}>:-Werror> $<$<BOOL:${RONDO_WERROR}>:all-warnings>
            -o ${gpt_fatbin} ${gpt_kernels}.cu
        DEPENDS ${gpt_kernels}.cu ${gpt_kernels}.h ${gpt_kernels}_body.h
        COMMENT "Compiling the kernels of train_gpt"
        COMMAND_EXPAND_LISTS VERBATIM)
endif()

set(gpt_image ${PROJECT_BINARY_DIR}/cuda/gpt_image.c)
file(CONFIGURE OUTPUT ${gpt_image} @ONLY CONTENT [[
// Made by examples/cuda.cmake.
__asm__(".pushsection .rodata; .balign 64; .globl gpt_kernels_image; gpt_kernels_image:"
        ".incbin \"@gpt_fatbin@\"; .popsection");
]])
set_source_files_properties(${gpt_image} PROPERTIES OBJECT_DEPENDS ${gpt_fatbin})
add_library(gpt_image OBJECT ${gpt_image})
target_link_libraries(train_gpt PRIVATE gpt_image)
