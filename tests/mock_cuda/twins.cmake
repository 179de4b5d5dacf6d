# SPDX-License-Identifier: MIT
# Twins of Rondo's own kernels, for MOCK_CUDA_TWINS: ${PROJECT_BINARY_DIR}/tests/mock_cuda/libmock_twins_ring.so.
add_library(mock_twins_ring SHARED ${CMAKE_CURRENT_SOURCE_DIR}/twins_ring.c)
set_target_properties(mock_twins_ring PROPERTIES
    LIBRARY_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/mock_cuda)
target_include_directories(mock_twins_ring PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(mock_twins_ring PRIVATE mock_cuda rondo_flags)
