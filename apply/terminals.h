// How a terminal (model/terminals.h) is opened again, and how a living one is put right.
#pragma once

#include <cstddef>
#include <cstdint>

#include "apply/file_maker.h"
#include "base/result.h"
#include "model/descriptor.h"

namespace relive::apply {

// prepare: opens the terminal by its name, without making it anybody's controlling one, as the open file `file`; and
// appends what puts it right. Errors: refused (it cannot be opened, or is another terminal now).
Result<void> open_terminal(FileMaker& maker, std::size_t file, const model::OpenFile& wanted,
                           const model::DescriptorTable& living);

// commit operations that give the living terminal under the number `fd` what `wanted` has. A terminal that hangs up
// before they are carried out leaves them without effect. In the task, where SIGTTOU is blocked: so its being in the
// background stops nothing (tty_check_change() of Linux).
Result<void> put_right(FileMaker& maker, model::RemoteFd fd, std::uint32_t flags, const model::Terminal& wanted,
                       const model::Terminal& living);

}  // namespace relive::apply
