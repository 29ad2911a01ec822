# The payload: freestanding code that runs inside tasks, linked to a flat image and embedded into the library.
set(payload_dir ${CMAKE_CURRENT_SOURCE_DIR}/parasite/payload)
set(payload_elf ${CMAKE_BINARY_DIR}/payload.elf)
set(payload_bin ${CMAKE_BINARY_DIR}/payload.bin)
set(payload_flags -std=c++23 -O2 -ffreestanding -fpie -nostdlib -mgeneral-regs-only -fno-stack-protector -fno-exceptions
    -fno-rtti -fno-asynchronous-unwind-tables -fcf-protection=none -fno-builtin -fno-tree-loop-distribute-patterns
    -fno-jump-tables -mno-red-zone -Wall -Wextra -Wshadow -Wconversion -Werror)
add_custom_command(
  OUTPUT ${payload_bin}
  COMMAND ${CMAKE_CXX_COMPILER} ${payload_flags} -I${CMAKE_SOURCE_DIR} -pie -Wl,--no-undefined -Wl,--build-id=none -Wl,-z,noexecstack
          -Wl,-T,${payload_dir}/payload.ld -o ${payload_elf} ${payload_dir}/entry.S ${payload_dir}/parasite.cpp
  COMMAND ${CMAKE_COMMAND} -DELF=${payload_elf} -P ${payload_dir}/check.cmake
  COMMAND ${CMAKE_OBJCOPY} -O binary -j .text ${payload_elf} ${payload_bin}
  DEPENDS ${payload_dir}/entry.S ${payload_dir}/parasite.cpp ${payload_dir}/payload.ld ${payload_dir}/check.cmake
          ${CMAKE_SOURCE_DIR}/parasite/wire.h
  COMMENT "Linking the parasite"
  VERBATIM)
set(payload_embed ${CMAKE_BINARY_DIR}/payload_embed.S)
file(WRITE ${payload_embed}.in
"        .section .rodata.payload, \"a\"
        .globl relive_payload_begin
        .globl relive_payload_end
relive_payload_begin:
        .incbin \"${payload_bin}\"
relive_payload_end:
        .section .note.GNU-stack, \"\", @progbits
")
configure_file(${payload_embed}.in ${payload_embed} COPYONLY)
set_source_files_properties(${payload_embed} PROPERTIES OBJECT_DEPENDS ${payload_bin})
target_sources(relive_parasite PRIVATE ${payload_embed})
