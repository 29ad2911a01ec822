# The keeper's protocol. protobuf is linked statically: a command must start in a millisecond or two.
set(protocol_dir ${CMAKE_BINARY_DIR}/generated)
file(MAKE_DIRECTORY ${protocol_dir}/rollback)
add_custom_command(
  OUTPUT ${protocol_dir}/rollback/keeper.pb.cc ${protocol_dir}/rollback/keeper.pb.h
  COMMAND protobuf::protoc --cpp_out=${protocol_dir} -I ${CMAKE_SOURCE_DIR} ${CMAKE_SOURCE_DIR}/rollback/keeper.proto
  DEPENDS ${CMAKE_SOURCE_DIR}/rollback/keeper.proto
  VERBATIM)
add_library(relive_protocol STATIC ${protocol_dir}/rollback/keeper.pb.cc ${protocol_dir}/rollback/keeper.pb.h)
target_include_directories(relive_protocol SYSTEM PUBLIC ${protocol_dir})
target_link_libraries(relive_protocol PUBLIC ${RELIVE_PROTOBUF} Threads::Threads)
target_link_libraries(relive_rollback PUBLIC relive_protocol)
