# sock_diag(7): which unix socket is at the other end (capture/descriptors.cpp)
pkg_check_modules(LIBMNL REQUIRED IMPORTED_TARGET libmnl)
target_link_libraries(relive_capture PRIVATE PkgConfig::LIBMNL)
