// The program `relive`, which becomes the keeper.
#pragma once

#include <string>

#include "base/result.h"

namespace relive::lib {

// Looked for as relive.h tells. Errors: not_found, naming where it was looked for.
Result<std::string> find_program();

}  // namespace relive::lib
