"""Training and test pictures: folders of photographs, crops and the degradations that make LQ from HQ."""
