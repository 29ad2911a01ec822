// Named pipes: opened anew through the keeper's reference to the file (Holds::references), and put right.
#pragma once

#include "apply/file_maker.h"
#include "base/result.h"
#include "diff/descriptors.h"

namespace relive::apply {

// prepare: opens the end that `wanted` was, without waiting for anybody. The file may have another name by now, or
// none. Errors: refused, where it may not be opened any more.
Result<void> carry_out(FileMaker& maker, const model::OpenFile& wanted, const diff::OpenNamedPipe& op);

// Makes room in prepare (undone with the rest); empties and fills it in the commit. `wanted`: the op's file.
Result<void> carry_out(FileMaker& maker, const model::OpenFile& wanted, const diff::RefillNamedPipe& op);

}  // namespace relive::apply
