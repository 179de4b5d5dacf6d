# SPDX-License-Identifier: MIT
# train_gpt --device cuda, over the mock driver and the mock cuBLAS of tests/mock_cuda. gpt_cuda runs on a GPU as well,
# when it is started by itself; gpt_cuda_ranks when it is given nothing but rondo-run and train_gpt.
add_executable(gpt_cuda test_cuda.c)
set_target_properties(gpt_cuda PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/bin)
target_link_libraries(gpt_cuda PRIVATE
    rondo rondo_flags PkgConfig::CMOCKA gpt_objects PkgConfig::BLAS m)
# With kernels, and without: what a build with nvcc and one without it makes.
foreach(name IN ITEMS gpt_cuda_train gpt_cuda_bare)
    add_executable(${name} ${PROJECT_SOURCE_DIR}/examples/train_gpt.c)
    set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/bin)
    target_link_libraries(${name} PRIVATE rondo rondo_flags gpt_objects PkgConfig::BLAS m)
endforeach()
if(NOT TARGET gpt_image)
    add_library(gpt_image OBJECT stand_in.c)
    target_link_libraries(gpt_image PRIVATE rondo_flags)
endif()
add_dependencies(gpt_cuda mock_cuda mock_cublas mock_twins_gpt)
add_dependencies(gpt_cuda_train mock_cuda mock_cublas mock_twins_gpt mock_twins_ring)
target_link_libraries(gpt_cuda PRIVATE gpt_image)
target_link_libraries(gpt_cuda_train PRIVATE gpt_image)

set(gpt_mock RONDO_CUDA_DRIVER=$<TARGET_FILE:mock_cuda> GPT_CUBLAS=$<TARGET_FILE:mock_cublas>)
add_test(NAME gpt_cuda COMMAND gpt_cuda)
rondo_test_properties(gpt_cuda LABELS gpt cuda)
set_property(TEST gpt_cuda APPEND PROPERTY ENVIRONMENT
    ${gpt_mock} MOCK_CUDA_TWINS=$<TARGET_FILE:mock_twins_gpt> MOCK_CUDA_LEAKS=1 MOCK_CUDA_STRICT=1
    MOCK_CUDA_JITTER_US=50)

add_test(NAME gpt_cuda_errors COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/cuda_errors
    $<TARGET_FILE:gpt_cuda_train> $<TARGET_FILE:gpt_cuda_bare>)
rondo_test_properties(gpt_cuda_errors LABELS gpt cuda)
set_property(TEST gpt_cuda_errors APPEND PROPERTY ENVIRONMENT
    ${gpt_mock} MOCK_CUDA_TWINS=$<TARGET_FILE:mock_twins_gpt>)

if(TARGET rondo-run)
    add_test(NAME gpt_cuda_ranks COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/cuda_ranks
        $<TARGET_FILE:rondo-run> $<TARGET_FILE:gpt_cuda_train>)
    rondo_test_properties(gpt_cuda_ranks TIMEOUT 300 LABELS gpt cuda)
    set_property(TEST gpt_cuda_ranks APPEND PROPERTY ENVIRONMENT ${gpt_mock}
        MOCK_CUDA_TWINS=$<TARGET_FILE:mock_twins_gpt>:$<TARGET_FILE:mock_twins_ring>)
endif()
