# SPDX-License-Identifier: MIT
# What stands for the rest of a GPU under train_gpt: twins of its kernels, and a cuBLAS over the BLAS of the host.
if(NOT TARGET gpt_objects)
    return()
endif()

# mock_cublas is loaded by name and finds the driver's functions in the process.
add_library(mock_twins_gpt MODULE twins_gpt.c)
add_library(mock_cublas MODULE mock_cublas.c)
foreach(library IN ITEMS mock_twins_gpt mock_cublas)
    set_target_properties(${library} PROPERTIES LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/mock_cuda)
    target_include_directories(${library} PRIVATE ${PROJECT_SOURCE_DIR})
    target_link_libraries(${library} PRIVATE mock_cuda rondo_flags m)
endforeach()
target_link_libraries(mock_cublas PRIVATE PkgConfig::BLAS)
set_target_properties(mock_cublas PROPERTIES PREFIX "lib" OUTPUT_NAME cublas)
