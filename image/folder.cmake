# The entries of image files, from image/proto/*.proto. protobuf is linked statically: a command must start in a millisecond
# or two.
set(entries_dir ${CMAKE_BINARY_DIR}/generated)
file(MAKE_DIRECTORY ${entries_dir}/image/proto)
file(GLOB protos CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/image/proto/*.proto)
set(generated)
foreach(proto ${protos})
  cmake_path(GET proto STEM stem)
  set(made ${entries_dir}/image/proto/${stem}.pb.cc ${entries_dir}/image/proto/${stem}.pb.h)
  add_custom_command(
    OUTPUT ${made}
    COMMAND protobuf::protoc --cpp_out=${entries_dir} -I ${CMAKE_SOURCE_DIR} ${proto}
    DEPENDS ${protos}
    VERBATIM)
  list(APPEND generated ${made})
endforeach()
add_library(relive_entries STATIC ${generated})
target_include_directories(relive_entries SYSTEM PUBLIC ${entries_dir})
target_link_libraries(relive_entries PUBLIC ${RELIVE_PROTOBUF} Threads::Threads)
target_link_libraries(relive_image PUBLIC relive_entries)
