#pragma once

#include "rare/bundle.h"

namespace rare {

/// Normalise an image in place, channel by channel, by the manifest's rule.
void normalise(Image& image, const Normalisation& rule);

}  // namespace rare
