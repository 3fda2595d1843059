"""Circuits of gates on encrypted bits, and words of bits made of them (t-BMPNet, Yoo and Yoon 2021)."""
