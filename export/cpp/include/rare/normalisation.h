#pragma once

#include "rare/bundle.h"

namespace rare {

/// Normalises an image in place, channel by channel, with the manifest's rule.
void normalise(Image& image, const Normalisation& rule);

}  // namespace rare
