# SPDX-License-Identifier: MIT
# The programs of ./run, and what of it can be tested without a GPU.
foreach(name IN ITEMS probe costs latency bandwidth overlap)
    add_executable(gpu_${name} programs/${name}.c)
    set_target_properties(gpu_${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests/bin)
    target_include_directories(gpu_${name} PRIVATE ${PROJECT_SOURCE_DIR})
    target_link_libraries(gpu_${name} PRIVATE rondo_static rondo_flags m ${CMAKE_DL_LIBS})
endforeach()

find_package(Python3 3.9 COMPONENTS Interpreter QUIET)
if(NOT Python3_Interpreter_FOUND)
    add_test(NAME gpu_run_selftest COMMAND sh -c "echo 'python3 >= 3.9 is not installed'; exit 77")
    rondo_test_properties(gpu_run_selftest LABELS gpu)
    return()
endif()

# What ./run makes of parts that fail, hang, print garbage; the list; the way out without a GPU.
add_test(NAME gpu_run_selftest COMMAND ${Python3_EXECUTABLE}
    ${CMAKE_CURRENT_SOURCE_DIR}/selftest.py ${PROJECT_BINARY_DIR})
rondo_test_properties(gpu_run_selftest LABELS gpu)

# Its quick parts over the driver for tests.
if(rondo_cuda_image)
    add_test(NAME gpu_run_mock COMMAND ${Python3_EXECUTABLE} ${CMAKE_CURRENT_SOURCE_DIR}/run --quick
        --build ${PROJECT_BINARY_DIR} --only device,suite,latency --json ${PROJECT_BINARY_DIR}/gpu-mock.json)
    rondo_test_properties(gpu_run_mock LABELS gpu slow TIMEOUT 240)
    set_property(TEST gpu_run_mock APPEND PROPERTY ENVIRONMENT
        RONDO_CUDA_DRIVER=$<TARGET_FILE:mock_cuda>
        MOCK_CUDA_TWINS=$<TARGET_FILE:mock_twins_ring>)
endif()
