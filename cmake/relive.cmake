# relive_warnings(target): the warnings every C++ target of ours is built with.
function(relive_warnings target)
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra -Wshadow -Wconversion -Werror>
    $<$<COMPILE_LANGUAGE:C>:-Wall -Wextra -Werror>)
endfunction()

# relive_library(NAME [USES ...]): the sources of one folder as a static library. A folder with headers only becomes an
# interface library. A folder may add to its target in FOLDER/folder.cmake.
function(relive_library name)
  cmake_parse_arguments(ARG "" "" "USES" ${ARGN})
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${name}/*.cpp)
  list(TRANSFORM ARG_USES PREPEND relive_)
  if(sources)
    add_library(relive_${name} STATIC ${sources})
    relive_warnings(relive_${name})
    target_link_libraries(relive_${name} PUBLIC ${ARG_USES} fmt::fmt Boost::headers)
  else()
    add_library(relive_${name} INTERFACE)
    target_link_libraries(relive_${name} INTERFACE ${ARG_USES} fmt::fmt Boost::headers)
  endif()
  if(EXISTS ${CMAKE_SOURCE_DIR}/${name}/folder.cmake)
    include(${CMAKE_SOURCE_DIR}/${name}/folder.cmake)
  endif()
endfunction()

# protobuf, linked statically where it can be; not in librelive.so, since Debian's archive is not position independent.
find_library(RELIVE_PROTOBUF_LITE NAMES libprotobuf-lite.a REQUIRED)
set(RELIVE_PROTOBUF
  $<IF:$<STREQUAL:$<TARGET_PROPERTY:TYPE>,SHARED_LIBRARY>,protobuf::libprotobuf-lite,${RELIVE_PROTOBUF_LITE}>)
