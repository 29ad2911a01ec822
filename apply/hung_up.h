// A stream socket whose peer is gone. Part of apply/descriptors.h.
#pragma once

#include <cstddef>
#include <span>

#include "base/result.h"
#include "base/unique_fd.h"

namespace relive::apply {

// Makes, in this process, a socket that gives `unread` and then end of file; writing to it is EPIPE. Of TCP for AF_INET
// and AF_INET6, made over the loopback device; where that is not to be had, and for AF_UNIX, a unix socket of the type.
Result<UniqueFd> make_hung_up_socket(int family, int type, std::span<const std::byte> unread);

}  // namespace relive::apply
