"""Where weights that do not come inside a package lie, and how they get there.

``checkpoint``  what an expert needs: files, where they come from, their licence; ``folder`` where they lie, and whether they are
whole; ``lock`` the digests of what was fetched; ``fetch`` the only place that uses the network, and only when a user asks for it.
"""
