# SPDX-License-Identifier: MIT
# libnccl-net-rondo.so: the transports as NCCL's network plugin. It holds the library itself, with all of its
# symbols but NCCL's hidden, so that it needs no librondo.so on the loader's path and disturbs none that is there.
option(RONDO_BUILD_NCCL_PLUGIN "Build the network plugin for NCCL" ${PROJECT_IS_TOP_LEVEL})
if(NOT RONDO_BUILD_NCCL_PLUGIN)
    return()
endif()
file(GLOB nccl_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/transport/nccl/*.c)
set(nccl_map ${PROJECT_SOURCE_DIR}/transport/nccl/plugin.map)
add_library(nccl_net_rondo MODULE ${nccl_sources})
set_target_properties(nccl_net_rondo PROPERTIES
    OUTPUT_NAME nccl-net-rondo
    PREFIX lib
    LINK_DEPENDS ${nccl_map})
target_include_directories(nccl_net_rondo PRIVATE ${PROJECT_SOURCE_DIR})
target_link_libraries(nccl_net_rondo PRIVATE rondo_static rondo_flags)
target_link_options(nccl_net_rondo PRIVATE
    -Wl,--version-script=${nccl_map}
    # NCCL closes the plugin after the last communicator; a thread that is about to end still needs its code.
    -Wl,-z,nodelete
    $<$<STREQUAL:${RONDO_SANITIZE},>:-Wl,-z,defs,-z,relro,-z,now>)
install(TARGETS nccl_net_rondo LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
